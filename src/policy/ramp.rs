//! How fast what has waited goes out once the other side is back: slowly at first, faster with each success.
//!
//! Many agents come back to one backend at the same moment. Each begins at its own moment, and sends the second piece a
//! whole step after the first one.

use std::time::{Duration, Instant};

/// The pace after an outage. The present moment is an argument.
#[derive(Debug, Clone, Copy)]
pub struct Ramp {
    first: Instant,
    sent: Option<Instant>,
    step: Duration,
    least: Duration,
}

impl Ramp {
    /// The first piece is due at `first`, the next one `step` later. A step is a seventh shorter after each success, down to
    /// `least`.
    pub fn new(first: Instant, step: Duration, least: Duration) -> Self {
        Self { first, sent: None, step, least: least.min(step) }
    }

    /// When the next piece is due.
    pub fn due(&self) -> Instant {
        self.sent.map_or(self.first, |sent| sent + self.step)
    }

    /// A piece goes out.
    pub fn sent(&mut self, now: Instant) {
        self.sent = Some(now);
    }

    /// A piece was taken.
    pub fn taken(&mut self) {
        self.step = self.step.mul_f64(0.85).max(self.least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_get_shorter_with_success_and_a_thousand_pieces_take_less_than_twenty_seconds() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut ramp = Ramp::new(start + ms(300), ms(1000), ms(10));
        let mut at = Vec::new();
        for _ in 0..1000 {
            at.push(ramp.due() - start);
            ramp.sent(ramp.due());
            ramp.taken();
        }
        assert_eq!(at[..2], [ms(300), ms(1150)]);
        assert!((15..20).contains(&at[999].as_secs()), "{:?}", at[999]);
    }

    #[test]
    fn without_success_the_step_stays() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut ramp = Ramp::new(now, second, Duration::ZERO);
        assert_eq!(ramp.due(), now);
        for _ in 0..3 {
            ramp.sent(now);
            assert_eq!(ramp.due(), now + second);
        }
    }
}

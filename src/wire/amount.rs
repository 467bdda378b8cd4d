//! Amounts from outside: numbers of a server, an engine or the kernel, such as seconds of processor time.
//!
//! Values that JSON cannot write (`inf`, `NaN`) must never reach a record: serde_json writes `null`, and the record could not
//! be read again. So text becomes an amount here, and a computed value passes here before it is stored or sent.

/// The largest amount. Up to here each whole number has an exact value.
pub const MOST: f64 = 9_007_199_254_740_992.0;

/// The amount nearest to `value`: 0 for what is negative or no number, [`MOST`] for what is larger.
pub fn sound(value: f64) -> f64 {
    // A comparison with NaN is false, and -0 is not above 0.
    if value > 0.0 { value.min(MOST) } else { 0.0 }
}

pub mod stored {
    //! For a field of a record: `#[serde(with = "amount::stored")]`.

    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes what can be read again.
    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(super::sound(*value))
    }

    /// Reads it. `null` is 0: an earlier version wrote that for `inf`.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(super::sound(Option::<f64>::deserialize(from)?.unwrap_or(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_becomes_an_amount() {
        for value in [f64::NAN, f64::NEG_INFINITY, -1.0, -0.0, 0.0, f64::MIN, f64::MIN_POSITIVE / 2.0] {
            let got = sound(value);
            assert!((0.0..1e-300).contains(&got) && got.is_sign_positive(), "{value}: {got}");
        }
        for value in [f64::INFINITY, f64::MAX, 1e308, 2f64.powi(63)] {
            assert_eq!(sound(value), MOST, "{value}");
        }
        assert_eq!(sound(60.75), 60.75);
    }
}

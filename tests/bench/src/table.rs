//! The table: each figure beside its floor, medians, and whether the targets are met.

use std::fmt::Write as _;

/// Which ratios are good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// One figure.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub agent: f64,
    pub floor: Option<f64>,
    /// The median of the pairs' ratios, agent to floor: what slowed both halves of a pair counts for neither.
    pub ratio: Option<f64>,
    pub target: Option<Target>,
}

#[derive(Debug, Default)]
pub struct Table {
    pub rows: Vec<Row>,
}

impl Table {
    /// A figure that has a floor, from pairs of (agent, floor).
    pub fn pairs(&mut self, name: &str, unit: &'static str, pairs: &[(f64, f64)], target: Option<Target>) {
        self.rows.push(Row {
            name: name.to_owned(),
            unit,
            agent: median(pairs.iter().map(|pair| pair.0)),
            floor: Some(median(pairs.iter().map(|pair| pair.1))),
            ratio: Some(median(pairs.iter().map(|pair| pair.0 / pair.1))),
            target,
        });
    }

    /// A figure of the agent alone.
    pub fn alone(&mut self, name: &str, unit: &'static str, agent: f64) {
        self.rows.push(Row { name: name.to_owned(), unit, agent, floor: None, ratio: None, target: None });
    }

    /// The row of that name and unit.
    pub fn row(&self, name: &str, unit: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name && row.unit == unit)
    }

    /// As Markdown, which is readable on a terminal too.
    pub fn render(&self) -> String {
        let mut out = format!("| {:<58} | {:>10} | {:>10} | {:<7} | ratio | target |\n", "", "agent", "floor", "unit");
        out.push_str("| --- | ---: | ---: | --- | ---: | --- |\n");
        for row in &self.rows {
            let floor = row.floor.map_or("-".to_owned(), number);
            let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let verdict = match (row.ratio, row.target) {
                (Some(ratio), Some(target)) => target.verdict(ratio),
                _ => String::new(),
            };
            let agent = number(row.agent);
            let _ = writeln!(
                out,
                "| {:<58} | {agent:>10} | {floor:>10} | {:<7} | {ratio:>5} | {verdict} |",
                row.name, row.unit
            );
        }
        out
    }
}

impl Target {
    /// Whether the ratio is as it should be.
    pub fn met(self, ratio: f64) -> bool {
        // Two digits are shown, and two digits count.
        let shown = (ratio * 100.0).round() / 100.0;
        match self {
            Self::AtMost(most) => shown <= most,
            Self::AtLeast(least) => shown >= least,
        }
    }

    fn verdict(self, ratio: f64) -> String {
        let word = if self.met(ratio) { "met" } else { "MISSED" };
        match self {
            Self::AtMost(most) => format!("≤ {most:.2}: {word}"),
            Self::AtLeast(least) => format!("≥ {least:.2}: {word}"),
        }
    }
}

/// The middle one; of an even number the mean of both in the middle. Not a number when there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Three digits or more.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]).to_string(), "2.5");
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_ratio_is_of_pairs_and_not_of_medians() {
        let mut table = Table::default();
        // Each pair has 1.1, although a busy moment made the second one tenfold.
        table.pairs("job", "ms", &[(110.0, 100.0), (1100.0, 1000.0), (99.0, 90.0)], Some(Target::AtMost(1.10)));
        let row = table.row("job", "ms").expect("the row");
        assert_eq!((row.agent, row.floor), (110.0, Some(100.0)));
        assert!((row.ratio.expect("a ratio") - 1.1).abs() < 1e-9);
        assert!(table.render().contains("≤ 1.10: met"), "{}", table.render());
        assert!(!Target::AtMost(1.10).met(1.11) && Target::AtLeast(0.95).met(0.95) && !Target::AtLeast(0.95).met(0.94));
    }
}

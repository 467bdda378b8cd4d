//! The Prometheus text format 0.0.4, as far as an agent needs it: families, samples, histograms.
//!
//! A family is opened once with its help and type, its samples follow. The writer escapes what the format wants
//! escaped; that names are well-formed is the caller's business, and a test's.
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

/// The value of `Content-Type` for this format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The `TYPE` of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
    Histogram,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One label: name and value.
pub type Label<'a> = (&'a str, &'a str);

/// The text of a page of metrics while it is being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// An empty page with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { text: String::with_capacity(capacity) }
    }

    /// Opens the family `name`.
    pub fn family(&mut self, name: &str, kind: Type, help: &str) {
        // Writing into a `String` does not fail.
        let _ = writeln!(self.text, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
        let _ = writeln!(self.text, "# TYPE {name} {}", kind.as_str());
    }

    /// One sample with a whole number.
    pub fn integer(&mut self, name: &str, labels: &[Label], value: u64) {
        self.name_and_labels(name, labels, None);
        let _ = writeln!(self.text, " {value}");
    }

    /// One sample with any number.
    pub fn number(&mut self, name: &str, labels: &[Label], value: f64) {
        self.name_and_labels(name, labels, None);
        let _ = writeln!(self.text, " {}", Number(value));
    }

    /// The samples of one histogram. `buckets` holds an upper bound and the observations in that bucket alone, `over`
    /// those above the last bound, `sum` the total of what was observed.
    pub fn histogram(&mut self, name: &str, labels: &[Label], buckets: &[(f64, u64)], over: u64, sum: f64) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for &(bound, count) in buckets {
            below += count;
            self.name_and_labels(&bucket, labels, Some(bound));
            let _ = writeln!(self.text, " {below}");
        }
        below += over;
        self.name_and_labels(&bucket, labels, Some(f64::INFINITY));
        let _ = writeln!(self.text, " {below}");
        self.number(&format!("{name}_sum"), labels, sum);
        self.integer(&format!("{name}_count"), labels, below);
    }

    /// The finished page.
    pub fn finish(self) -> String {
        self.text
    }

    fn name_and_labels(&mut self, name: &str, labels: &[Label], le: Option<f64>) {
        self.text.push_str(name);
        if labels.is_empty() && le.is_none() {
            return;
        }
        let mut before = '{';
        for (label, value) in labels {
            let _ = write!(self.text, "{before}{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            before = ',';
        }
        if let Some(bound) = le {
            let _ = write!(self.text, "{before}le=\"{}\"", Number(bound));
        }
        self.text.push('}');
    }
}

/// A float in the format's words.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            v if v.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            v => write!(f, "{v}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_to_the_letter() {
        let mut page = Page::default();
        page.family("jobs_total", Type::Counter, "Jobs,\nby \\ type.");
        page.integer("jobs_total", &[("type", "a\"b\\c\nd"), ("x", "")], 3);
        page.family("free_bytes", Type::Gauge, "Free.");
        page.number("free_bytes", &[], 1.5);
        page.family("took_seconds", Type::Histogram, "Time.");
        page.histogram("took_seconds", &[("phase", "setup")], &[(0.05, 2), (1.0, 1)], 4, 9.25);
        let want = r#"# HELP jobs_total Jobs,\nby \\ type.
# TYPE jobs_total counter
jobs_total{type="a\"b\\c\nd",x=""} 3
# HELP free_bytes Free.
# TYPE free_bytes gauge
free_bytes 1.5
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{phase="setup",le="0.05"} 2
took_seconds_bucket{phase="setup",le="1"} 3
took_seconds_bucket{phase="setup",le="+Inf"} 7
took_seconds_sum{phase="setup"} 9.25
took_seconds_count{phase="setup"} 7
"#;
        assert_eq!(page.finish(), want);
    }

    #[test]
    fn numbers_in_the_formats_words() {
        for (value, want) in [
            (0.0, "0"),
            (1e-3, "0.001"),
            (3600.0, "3600"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (-f64::INFINITY, "-Inf"),
        ] {
            assert_eq!(Number(value).to_string(), want);
        }
    }
}

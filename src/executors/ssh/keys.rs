//! stub
use crate::secret::Secret;
#[derive(Debug)]
pub struct KeyError;
impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
pub struct KeyInfo {
    pub kind: &'static str,
    pub format: &'static str,
    pub encrypted: bool,
}
pub fn normalize(t: &Secret) -> Result<Secret, KeyError> {
    Ok(t.clone())
}
pub fn describe(_t: &Secret) -> KeyInfo {
    KeyInfo { kind: "RSA", format: "PEM", encrypted: false }
}

//! stub
pub struct KnownHosts;
pub enum Check {
    Known { line: usize },
    Unknown,
    Revoked { line: usize },
    Mismatch { line: usize, known_type: String, known_fingerprint: String, offered_fingerprint: String },
    OtherTypes(Vec<(usize, String)>),
}
impl KnownHosts {
    pub fn parse(_t: &str) -> Self {
        Self
    }
    pub fn types_for(&self, _h: &str, _p: u16) -> Vec<String> {
        vec![]
    }
    pub fn check(&self, _h: &str, _p: u16, _k: &str, _b: &[u8]) -> Check {
        Check::Known { line: 1 }
    }
}
pub fn fingerprint(_b: &[u8]) -> String {
    String::new()
}
pub fn line(_h: &str, _p: u16, _k: &str, _b: &[u8]) -> String {
    String::new()
}
pub fn host_name(_h: &str, _p: u16) -> String {
    String::new()
}
pub fn append(_p: &std::path::Path, _l: &str) -> std::io::Result<()> {
    Ok(())
}

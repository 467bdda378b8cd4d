//! The bytes that a signature covers, version 1.
//!
//! Each text is its length in bytes (4 bytes, the most significant first) and its bytes. Each list is its number of
//! entries (4 bytes) and its entries. There is one encoding of a job and one job of an encoding. docs/signing.md is the
//! specification, `api/signing_tests.rs` holds its vectors.

use std::time::Duration;

use crate::job::{Job, Kind, Server, Signature};

/// The first text: another version, or another use of a key, makes other bytes.
const DOMAIN: &str = "cronium.job.signature.1";

/// The bytes for `job` with the terms of `signature`; the error says why this job cannot be signed.
pub fn bytes(job: &Job, signature: &Signature) -> Result<Vec<u8>, String> {
    let mut out = Encoder::default();
    out.text(DOMAIN)?;
    out.text(&signature.key_id)?;
    out.text(&signature.signed_at)?;
    out.text(signature.expires_at.as_deref().unwrap_or_default())?;
    work(&mut out, job)?;
    Ok(out.0)
}

/// SHA-256 of the bytes for `job` with its own signature's terms; those of a job without one are empty. `None`: it has no
/// such bytes.
pub fn sum(job: &Job) -> Option<String> {
    let none = Signature { key_id: String::new(), signed_at: String::new(), expires_at: None, value: String::new() };
    let signature = job.signature.as_ref().and_then(|signature| signature.as_ref().ok());
    bytes(job, signature.unwrap_or(&none)).ok().map(|bytes| super::sha256(&bytes))
}

/// What is to be done.
fn work(out: &mut Encoder, job: &Job) -> Result<(), String> {
    out.text(job.event.id.as_deref().unwrap_or_default())?;
    out.text(job.kind.as_str())?;
    out.text(if job.kind == Kind::Http { "" } else { job.script.language.as_str() })?;
    out.text(&job.script.content)?;
    out.text(&job.script.working_directory)?;
    servers(out, job)?;
    environment(out, job)?;
    out.text(&milliseconds(job.timeout)?)?;
    out.text(&cores(job.resources.cpu)?)?;
    for amount in [job.resources.memory, job.resources.disk, job.resources.pids] {
        out.text(&amount.map_or(String::new(), |amount| amount.to_string()))?;
    }
    request(out, job)
}

fn servers(out: &mut Encoder, job: &Job) -> Result<(), String> {
    out.count(job.servers.len())?;
    for server in &job.servers {
        let Server { id, host, port, user, jump, .. } =
            server.as_ref().map_err(|bad| format!("the entry of its server {} cannot be used", bad.name))?;
        if jump.is_some() {
            return Err(format!(
                "it names the jump host of its server {host}, which no signature of this version covers"
            ));
        }
        out.text(id.as_deref().unwrap_or_default())?;
        out.text(host)?;
        out.text(&port.to_string())?;
        out.text(user)?;
    }
    Ok(())
}

/// By name, since JSON objects have no order.
fn environment(out: &mut Encoder, job: &Job) -> Result<(), String> {
    let mut variables: Vec<_> = job.environment.iter().collect();
    variables.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
    if let Some(twice) = variables.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("its variable {:?} is given twice", twice[0].0));
    }
    out.count(variables.len())?;
    for (name, value) in variables {
        out.text(name)?;
        out.text(value.expose())?;
    }
    Ok(())
}

/// By name; headers of one name keep their order.
fn request(out: &mut Encoder, job: &Job) -> Result<(), String> {
    out.count(usize::from(job.http.is_some()))?;
    let Some(request) = &job.http else { return Ok(()) };
    out.text(&request.method.to_ascii_uppercase())?;
    out.text(request.url.expose())?;
    let mut headers: Vec<_> = request.headers.iter().collect();
    headers.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
    out.count(headers.len())?;
    for (name, value) in headers {
        out.text(name)?;
        out.text(value.expose())?;
    }
    out.text(request.body.as_ref().map_or("", |body| body.expose()))
}

/// Whole milliseconds; `0` for none.
fn milliseconds(timeout: Option<Duration>) -> Result<String, String> {
    let timeout = timeout.unwrap_or_default();
    if !timeout.subsec_nanos().is_multiple_of(1_000_000) {
        return Err("its timeout is no whole number of milliseconds".to_owned());
    }
    Ok(timeout.as_millis().to_string())
}

/// Whole thousandths of a core; empty for none.
fn cores(cpu: Option<f64>) -> Result<String, String> {
    let Some(cpu) = cpu else { return Ok(String::new()) };
    let thousandths = (cpu * 1000.0).round();
    if (cpu * 1000.0 - thousandths).abs() > 1e-6 || thousandths > 1e12 {
        return Err("its cpuLimit is no whole number of thousandths of a core".to_owned());
    }
    Ok(format!("{thousandths:.0}"))
}

#[derive(Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn count(&mut self, count: usize) -> Result<(), String> {
        let count = u32::try_from(count).map_err(|_| "it is larger than a signature can cover".to_owned())?;
        self.0.extend_from_slice(&count.to_be_bytes());
        Ok(())
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), String> {
        self.count(text.len())?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

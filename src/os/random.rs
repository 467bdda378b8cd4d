//! Random bytes from the kernel, for jitter, ids and the delimiter of a here-document.
#![allow(unsafe_code)]

/// Fills `out` from `getrandom(2)`, which does not fail for such sizes once the kernel has booted.
pub fn fill(out: &mut [u8]) {
    #[cfg(test)]
    if let Some(sim) = crate::os::sim::here() {
        return sim.fill(out);
    }
    let mut done = 0;
    while done < out.len() {
        let rest = &mut out[done..];
        // SAFETY: the pointer and the length describe `rest`, which is writable for the whole call.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => done += n,
            Err(_) => {
                let error = std::io::Error::last_os_error();
                assert!(error.kind() == std::io::ErrorKind::Interrupted, "getrandom failed: {error}");
            }
        }
    }
}

/// A random 64-bit number.
pub fn number() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// `bytes` random bytes as lower-case hex.
pub fn hex(bytes: usize) -> String {
    let mut raw = vec![0; bytes];
    fill(&mut raw);
    raw.iter().map(|b| format!("{b:02x}")).collect()
}

/// A number in `0.0..1.0`, for full jitter.
pub fn unit() -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let fraction = (number() >> 11) as f64 / (1u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_differ_and_units_stay_in_range() {
        assert_ne!(super::hex(16), super::hex(16));
        assert_eq!(super::hex(16).len(), 32);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&super::unit())));
    }
}

//! The numbers of the page on the health port. Used as the others, by `limits::NAME`.

/// Endings of jobs that the page shows.
pub const PAGE_ENDINGS: usize = 50;
/// Running jobs that it shows: as many as there can be workers.
pub const PAGE_JOBS: usize = 100;
/// Servers with an open breaker that it shows.
pub const PAGE_BREAKERS: usize = 50;
/// Characters of an event's name on it. The app allows 100 or so.
pub const PAGE_NAME: usize = 120;
/// Samples of running jobs and latency, one at each look of the monitor ([`ENGINE_LOOK`](super::ENGINE_LOOK)): ten minutes.
pub const PAGE_SAMPLES: usize = 120;
/// Bytes of the page itself.
pub const PAGE_SIZE: usize = 24 * 1024;
/// Bytes of what it shows, at most: 150 jobs with the longest names, each byte of which may be six in JSON.
pub const PAGE_DATA: usize = 192 * 1024;

//! The numbers of the requests that jobs of type HTTP_REQUEST make. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// Bytes of a URL: what common servers take at most.
pub const REQUEST_URL_MAX: usize = 8 * 1024;
/// Headers of a request. Common servers take a hundred.
pub const REQUEST_HEADERS_MAX: usize = 100;
/// Bytes of all names and values of a request's headers: what the largest common servers take.
pub const REQUEST_HEAD_MAX: usize = 32 * 1024;
/// Bytes of an answer's head that are read; a longer one is an error.
pub const REQUEST_ANSWER_HEAD: usize = 64 * 1024;
/// A connection's buffer, each way. Larger than the heads, so that a longer one is an error and not waited for.
pub const REQUEST_BUFFER: usize = 96 * 1024;
/// Longest time to resolve a name of a request, and to connect to it. The job's own limit may end it sooner.
pub const REQUEST_CONNECT: Duration = Duration::from_secs(10);

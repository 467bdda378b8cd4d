//! The numbers of `doctor`: how long a person waits. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// `doctor`: one call to the backend, unless `api.timeout` is shorter: a person waits for the answer.
pub const DOCTOR_CALL: Duration = Duration::from_secs(5);
/// The backend's name to addresses. The C library's resolver may try for longer; then it is left behind.
pub const DOCTOR_DNS: Duration = Duration::from_secs(5);
/// From the first packet to the end of the TLS handshake.
pub const DOCTOR_TLS: Duration = Duration::from_secs(5);
/// All questions to the backend together, and all to this host: more than their parts, so that a part is named.
pub const DOCTOR_GROUP: Duration = Duration::from_secs(30);
/// A certificate that ends sooner causes a warning: time to renew it, and longer than the last days of a healthy renewal.
pub const DOCTOR_EXPIRY: Duration = Duration::from_secs(14 * 86_400);

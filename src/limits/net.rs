//! The numbers of every connection that the agent makes. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// When an address of a name has not answered for this long, the next is tried beside it (RFC 8305 recommends 250 ms): an
/// IPv6 address that swallows packets costs this much.
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried: more would mean as many sockets at once.
pub const CONNECT_ADDRESSES: usize = 16;
/// Lookups of the agent's own names (backend, live log, engine) that may wait for the resolver at once. The C library
/// cannot be interrupted there, so each holds a thread until it returns.
pub const LOOKUPS_OWN: usize = 16;
/// The same for servers that jobs name: names that do not resolve never block the way to the backend.
pub const LOOKUPS_SERVERS: usize = 64;

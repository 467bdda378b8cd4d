//! The numbers of warm containers. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// How often the containers that wait are looked at: whether they still run, their image, this host's memory. A job that
/// takes one looks for itself.
pub const WARM_LOOK: Duration = Duration::from_secs(5);
/// Longest pause after the first failure to make one. It doubles each time.
pub const WARM_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
pub const WARM_RETRY_MOST: Duration = Duration::from_secs(60);
/// Per cent of the last ten seconds in which some program waited for memory, from which on no container waits.
pub const WARM_MEMORY_STALL: f64 = 10.0;
/// How long the end of the agent waits for the removal of those that wait. They end by themselves with their stdin.
pub const WARM_EMPTY: Duration = Duration::from_secs(20);
/// After a job has taken a container: so long the engine gets no other work for the pool, so that the first line comes first.
/// Then the container gets its job's name, and another one is made.
pub const WARM_REST: Duration = Duration::from_millis(100);

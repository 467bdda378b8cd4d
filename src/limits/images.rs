//! The numbers of images that are pulled ahead and removed. Used as the others, by `limits::NAME`.

use std::time::Duration;

/// Images of which it is kept that this agent pulled them. Beyond, the one used longest ago is forgotten, and stays.
pub const IMAGES_KEPT: usize = 256;
/// Bytes of the file that keeps them: [`IMAGES_KEPT`] lines with the longest names, each byte of which may be six in JSON.
pub const IMAGES_FILE: u64 = 2 << 20;
/// Images whose digest is remembered, so that the engine is asked once for each and not once for each job.
pub const IMAGES_ASKED: usize = 64;
/// Between two writes of that file: a kill costs the last uses of so long, and never a pull.
pub const IMAGES_WRITE: Duration = Duration::from_secs(60);
/// Images that are removed in one go; the rest waits for the monitor's next look.
pub const IMAGES_ROUND: usize = 20;
/// How often it is looked for a moment in which no job waits for the engine.
pub const IMAGES_TICK: Duration = Duration::from_millis(200);
/// How long such a moment is waited for before the thread ends. The monitor starts it again.
pub const IMAGES_PATIENCE: Duration = Duration::from_secs(60);
/// The next look for something to remove, after one that found nothing.
pub const IMAGES_AGAIN: Duration = Duration::from_secs(300);
/// Longest pull ahead of any job.
pub const PRE_PULL: Duration = Duration::from_secs(3600);
/// Longest pause after the first failure to pull ahead. It doubles each time.
pub const PRE_PULL_FIRST: Duration = Duration::from_secs(15);
/// Longest pause between two tries.
pub const PRE_PULL_MOST: Duration = Duration::from_secs(1800);

//! The images that this agent pulled, and when each was last used, in one small file of a folder in `state.dir`.
//!
//! A line an image, with its own checksum: damage costs the lines that it hits. An image whose line is lost stays in the
//! engine, since nothing shows any more that it is this agent's.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::executors::container::images::Pulled;
use crate::limits;
use crate::os::files::{self, Folder};
use crate::wire::crc32;

/// The folder in `state.dir`.
pub(super) const FOLDER: &str = "pulled";
const FILE: &str = "list";

/// Writes all of them, in place of what was there.
pub(super) fn write(folder: &Folder, images: &[Pulled]) -> io::Result<()> {
    let text: String = images.iter().map(line).collect();
    folder.write(FILE, &[text.as_bytes()])
}

/// The images that are written down in `dir` (`state.dir`), also beside an agent; and how many lines are of no use.
pub fn pulled(dir: &Path) -> io::Result<(Vec<Pulled>, usize)> {
    read_all(&dir.join(FOLDER))
}

/// Reads what [`write`] wrote.
pub(super) fn read_all(folder: &Path) -> io::Result<(Vec<Pulled>, usize)> {
    let text = match files::read_small_bytes(&folder.join(FILE), limits::IMAGES_FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        text => text?,
    };
    let lines = || text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut ids = BTreeSet::new();
    let images = lines().filter_map(read).filter(|image| ids.insert(image.id.clone()));
    let images: Vec<Pulled> = images.take(limits::IMAGES_KEPT).collect();
    let bad = lines().count() - images.len();
    Ok((images, bad))
}

/// `<CRC-32 of the JSON, 8 hex digits> <JSON>`, a line.
fn line(image: &Pulled) -> String {
    let json = serde_json::to_string(image).unwrap_or_default();
    format!("{:08x} {json}\n", crc32::of(json.as_bytes()))
}

fn read(line: &[u8]) -> Option<Pulled> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let is_sound = sum.len() == 8 && u32::from_str_radix(sum, 16).ok()? == crc32::of(json.as_bytes());
    if is_sound { serde_json::from_str(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::scratch::Scratch;

    fn image(n: usize) -> Pulled {
        Pulled { id: format!("sha256:{n}"), name: format!("h:5000/a:{n}"), used_ms: n as u64 }
    }

    fn kept(scratch: &Scratch, count: usize) -> Vec<Pulled> {
        let images: Vec<Pulled> = (0..count).map(image).collect();
        write(&Folder::open(scratch).expect("a folder"), &images).expect("write");
        images
    }

    #[test]
    fn what_was_written_is_read_and_no_file_is_an_empty_one() {
        let scratch = Scratch::new();
        assert_eq!(read_all(&scratch).expect("read"), (vec![], 0));
        let images = kept(&scratch, 3);
        assert_eq!(read_all(&scratch).expect("read"), (images, 0));
        kept(&scratch, 0);
        assert_eq!(read_all(&scratch).expect("read"), (vec![], 0));
    }

    #[test]
    fn damage_costs_the_lines_that_it_hits_and_never_shows_another_image() {
        let scratch = Scratch::new();
        let images = kept(&scratch, 3);
        let path = scratch.join(FILE);
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).expect("write");
            let (found, _) = read_all(&scratch).expect("read");
            assert!(images.starts_with(&found), "cut at {at}");
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, bytes).expect("write");
            let (found, bad) = read_all(&scratch).expect("read");
            // Two are lost where the end of the first is. A digit of a checksum may be in upper case.
            assert!(!found.is_empty() && found.iter().all(|one| images.contains(one)), "bit in byte {at}");
            assert!(found.len() == 3 || bad > 0, "bit in byte {at}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_bounded() {
        let scratch = Scratch::new();
        let path = scratch.join(FILE);
        let many: String = (0..limits::IMAGES_KEPT + 5).map(|n| line(&image(n))).collect();
        std::fs::write(&path, many.clone() + &line(&image(0))).expect("write");
        let (found, bad) = read_all(&scratch).expect("read");
        assert_eq!((found.len(), bad), (limits::IMAGES_KEPT, 6));
        let more = usize::try_from(limits::IMAGES_FILE).expect("fits") + 1;
        std::fs::write(&path, "x".repeat(more)).expect("write");
        assert_eq!(read_all(&scratch).expect_err("too long").kind(), io::ErrorKind::FileTooLarge);
        // The longest names fit.
        let longest = |n: usize| Pulled {
            id: "\u{1}".repeat(500),
            name: format!("{n}{}", "\u{1}".repeat(500)),
            used_ms: u64::MAX,
        };
        let text: String = (0..limits::IMAGES_KEPT).map(|n| line(&longest(n))).collect();
        assert!(text.len() as u64 <= limits::IMAGES_FILE, "{}", text.len());
    }
}

//! The block device below a folder: limits on bytes and operations a second are set on a device, not on a path.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The whole disk (never a partition: the kernel throttles disks) that holds `path`, as `/dev/…`.
pub fn below(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let device = fs::metadata(path).map_err(|error| format!("cannot look at {shown}: {error}"))?.dev();
    let number = match split(device) {
        // No separate device (btrfs, overlay): look the device up in the table of mounts.
        (0, _) => {
            let table = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
            let source = source_of(&table, path).ok_or_else(|| format!("no block device is behind {shown}"))?;
            split(
                fs::metadata(&source).map_err(|error| format!("cannot look at {}: {error}", source.display()))?.rdev(),
            )
        }
        number => number,
    };
    let link = format!("/sys/dev/block/{}:{}", number.0, number.1);
    let mut folder = fs::canonicalize(&link).map_err(|error| format!("cannot follow {link}: {error}"))?;
    if folder.join("partition").exists() {
        folder.pop();
    }
    let name = folder.file_name().and_then(|name| name.to_str()).ok_or_else(|| format!("{link} has no name"))?;
    Ok(format!("/dev/{}", name.replace('!', "/")))
}

/// Major and minor number, as the kernel packs them for user space.
fn split(device: u64) -> (u64, u64) {
    (((device >> 8) & 0xfff) | ((device >> 32) & !0xfff), (device & 0xff) | ((device >> 12) & 0xffff_ff00))
}

/// The `/dev/…` source of the mount that holds `path`: the longest mount point that is a beginning of it.
fn source_of(mountinfo: &str, path: &Path) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = Path::new(left.split(' ').nth(4)?);
            let source = right.split(' ').nth(1)?;
            (path.starts_with(point) && source.starts_with("/dev/"))
                .then(|| (point.as_os_str().len(), PathBuf::from(source)))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, source)| source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unpacked() {
        assert_eq!(split(0xfe00), (254, 0));
        assert_eq!(split(0x0010_0801), (8, 257));
    }

    #[test]
    fn the_longest_mount_point_wins() {
        let table = "1 0 254:1 / / rw - ext4 /dev/vda1 rw\n2 1 0:30 /sub /var/lib rw - btrfs /dev/sdb rw\n3 1 0:31 / /var/lib/x rw - tmpfs tmpfs rw\n";
        assert_eq!(source_of(table, Path::new("/var/lib/docker")), Some("/dev/sdb".into()));
        assert_eq!(source_of(table, Path::new("/home")), Some("/dev/vda1".into()));
    }

    #[test]
    fn the_root_of_this_machine_has_a_disk() {
        let device = below(Path::new("/")).expect("a device");
        assert!(Path::new(&device).exists(), "{device}");
    }
}

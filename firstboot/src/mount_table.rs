//! What is mounted where, as the kernel says it in `/proc/self/mountinfo` (proc(5)). Pure.

use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// What kind of file system.
    pub fstype: String,
    /// What is mounted.
    pub source: String,
    /// Neither the mount nor the file system below it can be written.
    pub read_only: bool,
}

/// Linux 6.14 and later leave an ext4 that hit an error `rw` and add the second; the third is one that was shut down.
const READ_ONLY: [&str; 3] = ["ro", "emergency_ro", "shutdown"];

/// The mount that is visible at `point`: of several on top of each other the last one.
pub fn mount_at(mountinfo: &str, point: &Path) -> Option<Mount> {
    mountinfo.lines().filter_map(parse_line).rfind(|mount| mount.point == point)
}

/// One line: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn parse_line(line: &str) -> Option<Mount> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let mut system = system.split(' ');
    let point = PathBuf::from(unescape(mount.next()?));
    let options = mount.next()?;
    let (fstype, source) = (system.next()?.to_owned(), unescape(system.next()?));
    let read_only =
        [options, system.next()?].iter().any(|list| list.split(',').any(|option| READ_ONLY.contains(&option)));
    Some(Mount { point, fstype, source, read_only })
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b
40 22 252:16 / /var/lib/kiln rw,nosuid shared:1 - ext4 /dev/vdb rw,errors=remount-ro
41 22 252:16 / /mnt/a\\040b ro,nosuid - ext4 /dev/vdc rw
42 22 252:16 / /var/lib/kiln rw,nosuid shared:1 master:7 - ext4 /dev/vdb ro,errors=remount-ro
";

    #[test]
    fn sees_the_topmost_mount_and_either_kind_of_read_only() {
        let at = |point: &str| mount_at(TABLE, Path::new(point));
        assert_eq!(at("/").unwrap().fstype, "overlay");
        assert!(!at("/").unwrap().read_only);
        assert!(at("/var/lib/kiln").unwrap().read_only, "the file system went read-only below the mount");
        assert!(at("/mnt/a b").unwrap().read_only);
        assert_eq!(at("/var/lib"), None);
        let broken = "42 22 7:1 / /data rw,noatime - ext4 /dev/loop1 rw,errors=remount-ro,emergency_ro\n";
        assert!(mount_at(broken, Path::new("/data")).unwrap().read_only, "as Linux 6.14 says it");
    }
}

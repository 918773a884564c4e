//! Replacing a file so that a power cut leaves the old one or the new one, never a part of either.
#![expect(clippy::disallowed_methods, reason = "an edge: files are created and renamed here")]

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Writes `bytes` beside `path` with `mode`, syncs, renames over `path`, syncs the directory.
///
/// Readers see the old file or the new one. Owner and group are those of the process, except that a setgid directory gives its
/// group.
///
/// # Errors
/// The I/O error, naming the path; whatever was at `path` is then still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_noting(path, bytes, mode, || {})
}

/// As [`replace`]; calls `written` when the new content is synced under its temporary name and not yet renamed.
///
/// # Errors
/// As [`replace`].
pub fn replace_noting(path: &Path, bytes: &[u8], mode: u32, written: impl FnOnce()) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other(format!("`{}` has no directory", path.display())))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = directory.join(name);
    // What an earlier attempt left may have another mode.
    match fs_err::remove_file(&beside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true);
    options.options_mut().mode(mode);
    let mut file = options.open(&beside)?;
    // A unit's UMask must not take from a mode that other users rely on.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    written();
    fs_err::rename(&beside, path)?;
    sync_directory(directory)
}

/// Makes a directory's entries durable.
///
/// # Errors
/// The I/O error, naming the directory.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    fs_err::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_content_and_mode_even_over_the_rest_of_an_earlier_attempt() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state.json");
        fs_err::write(scratch.path().join("state.json.new"), "half").unwrap();
        replace(&path, b"one", 0o644).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"two");
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs_err::read_dir(scratch.path()).unwrap().count(), 1);
    }
}

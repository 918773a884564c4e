//! The API token: read from a file that nobody else may read, held in memory that is wiped, and never in an argument, the environment or a log.
#![expect(clippy::disallowed_methods, reason = "the place where the token is read")]

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use zeroize::Zeroizing;

use crate::exit::Refusal;

/// A real token's file has under a hundred bytes.
const LONGEST: u64 = 4096;

/// `USER@REALM!NAME=SECRET`.
#[derive(Clone)]
pub(super) struct Token(Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.id()).finish()
    }
}

impl Token {
    /// Reads the token of a file.
    ///
    /// # Errors
    /// A refusal when others than the owner may read the file; when it is no token.
    pub(super) fn read(file: &Utf8Path) -> Result<Self> {
        let context = || format!("reading the API token `{file}`");
        // Looked at through the handle that is read: what was checked is what is used.
        let mut opened = fs_err::File::open(file).with_context(context)?;
        let metadata = opened.metadata().with_context(context)?;
        if metadata.mode() & 0o077 != 0 {
            let what = format!(
                "`{file}` holds an API token, and others may use it: its mode is {:04o}",
                metadata.mode() & 0o7777
            );
            return Err(Refusal::new(
                what,
                format!("chmod 0600 {file}; make a new token if others were on this machine"),
            )
            .into());
        }
        anyhow::ensure!(metadata.len() <= LONGEST, "`{file}` is too long for an API token");
        let mut text = Zeroizing::new(String::with_capacity(4096));
        (&mut opened).take(LONGEST).read_to_string(&mut text).with_context(context)?;
        Self::parse(text.trim()).with_context(|| {
            format!("`{file}` is no API token\n  hint: write USER@REALM!NAME=SECRET on one line, as `pveum user token add` prints them")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('=')?;
        let (user, name) = id.split_once('!')?;
        let (user, realm) = user.rsplit_once('@')?;
        let word = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic() && !b"!=/:".contains(&b));
        [user, realm, name, secret].iter().all(|t| word(t)).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// `USER@REALM!NAME`, which is no secret.
    pub(super) fn id(&self) -> &str {
        self.0.split_once('=').map_or("", |(id, _)| id)
    }

    /// `USER@REALM`.
    pub(super) fn user(&self) -> &str {
        self.id().split_once('!').map_or("", |(user, _)| user)
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("PVEAPIToken={}", *self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, camino::Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("token")).unwrap();
        fs_err::write(&path, text).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn is_read_from_a_file_of_the_owners_alone_and_never_shown() {
        let (_folder, path) = file("kiln@pve!kiln=aaaa-bbbb\n", 0o600);
        let token = Token::read(&path).unwrap();
        assert_eq!((token.id(), token.user()), ("kiln@pve!kiln", "kiln@pve"));
        assert_eq!(*token.header(), "PVEAPIToken=kiln@pve!kiln=aaaa-bbbb");
        assert!(!format!("{token:?}").contains("aaaa"));
    }

    #[test]
    fn refuses_a_file_that_others_may_read_and_what_is_no_token() {
        for mode in [0o640, 0o604, 0o620] {
            let (_folder, path) = file("kiln@pve!kiln=aaaa", mode);
            let error = Token::read(&path).unwrap_err();
            assert!(error.downcast_ref::<Refusal>().unwrap().remedy.starts_with("chmod 0600"), "{error}");
        }
        for text in ["", "kiln@pve=aaaa", "kiln!kiln=aaaa", "kiln@pve!kiln=", "kiln@pve!kiln=a b"] {
            let (_folder, path) = file(text, 0o600);
            let error = format!("{:#}", Token::read(&path).unwrap_err());
            assert!(error.contains("is no API token") && !error.contains("aaaa"), "{error}");
        }
    }
}

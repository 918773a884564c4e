//! Reading a tar as a list of its members, with the bytes of each left where they are.
#![expect(clippy::disallowed_methods, reason = "reads the base's tar")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use kiln_firstboot::digest::Sha256Digest;

const BLOCK: u64 = 512;

/// One member of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its path without `./` in front and `/` behind; empty for the top directory.
    pub path: String,
    /// The type flag: `0` file, `1` hard link, `2` symbolic link, `5` directory, …
    pub kind: u8,
    /// The target of a link, as written; of a hard link, in the form of `path`.
    pub link: String,
    /// All its bytes in the archive: extended headers, header, data, padding.
    pub bytes: Range<u64>,
    /// Its data.
    pub data: Range<u64>,
}

/// What a tar says it holds, as one digest: two tars with the same have the same members in the same places. Their data do not count.
///
/// # Errors
/// As [`open`].
pub(super) fn digest_of_list(path: &Path) -> anyhow::Result<Sha256Digest> {
    Ok(list_digest(&open(path)?.1))
}

/// The digest of a list of members.
pub(super) fn list_digest(members: &[Member]) -> Sha256Digest {
    let mut list = Vec::new();
    for Member { path, kind, link, bytes, data } in members {
        for text in [path, link] {
            list.extend_from_slice(&(text.len() as u64).to_be_bytes());
            list.extend_from_slice(text.as_bytes());
        }
        list.push(*kind);
        [bytes.start, bytes.end, data.start, data.end].iter().for_each(|at| list.extend_from_slice(&at.to_be_bytes()));
    }
    Sha256Digest::of(&list)
}

/// Opens a tar and lists its members.
///
/// # Errors
/// When it cannot be read, or is no tar.
pub(super) fn open(path: &Path) -> anyhow::Result<(File, Vec<Member>)> {
    let file = fs_err::File::open(path)?.into_file();
    let members = scan(&file).with_context(|| format!("reading archive `{}`", path.display()))?;
    Ok((file, members))
}

fn scan(file: &File) -> anyhow::Result<Vec<Member>> {
    let mut members = Vec::new();
    let mut at = 0;
    // Extended headers belong to the member that follows them.
    let (mut start, mut long_path, mut long_link, mut long_size) = (0, None, None, None);
    loop {
        let mut header = [0u8; 512];
        match file.read_exact_at(&mut header, at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                bail!("the archive ends without its end mark at byte {at}")
            }
            Err(e) => return Err(e.into()),
        }
        if header.iter().all(|b| *b == 0) {
            return Ok(members);
        }
        let sum: u64 =
            header.iter().enumerate().map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b })).sum();
        if number(&header[148..156]) != Some(sum) {
            bail!("there is no tar header at byte {at}");
        }
        let Some(short_size) = number(&header[124..136]) else { bail!("a member at byte {at} has no size") };
        let kind = if header[156] == 0 { b'0' } else { header[156] };
        let size = if matches!(kind, b'x' | b'g' | b'L' | b'K') { short_size } else { long_size.unwrap_or(short_size) };
        // Links and directories may name a size but have no data.
        let size = if matches!(kind, b'1' | b'2' | b'3' | b'4' | b'5' | b'6') { 0 } else { size };
        let data = at + BLOCK..at + BLOCK + size;
        at = data.end.next_multiple_of(BLOCK);
        match kind {
            b'x' => {
                for (key, value) in records(&body(file, &data)?)? {
                    match key.as_str() {
                        "path" => long_path = Some(value),
                        "linkpath" => long_link = Some(value),
                        "size" => long_size = Some(value.parse().context("reading a member's size")?),
                        _ => {}
                    }
                }
            }
            b'g' => {}
            b'L' => long_path = Some(text(&body(file, &data)?)),
            b'K' => long_link = Some(text(&body(file, &data)?)),
            _ => {
                let path = long_path.take().unwrap_or_else(|| short_path(&header));
                let link = long_link.take().unwrap_or_else(|| text(&header[157..257]));
                let link = if kind == b'1' { plain(&link) } else { link };
                members.push(Member { path: plain(&path), kind, link, bytes: start..at, data });
                (start, long_size) = (at, None);
            }
        }
    }
}

fn body(file: &File, data: &Range<u64>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![
        0;
        usize::try_from(data.end - data.start)
            .ok()
            .filter(|n| *n < 1 << 20)
            .context("an extended header is over 1 MiB")?
    ];
    file.read_exact_at(&mut bytes, data.start)?;
    Ok(bytes)
}

/// A name in ustar's two fields.
fn short_path(header: &[u8]) -> String {
    let name = text(&header[..100]);
    let ustar = &header[257..263] == b"ustar\0";
    match text(&header[345..500]) {
        prefix if ustar && !prefix.is_empty() => format!("{prefix}/{name}"),
        _ => name,
    }
}

/// The records of a PAX header, `LENGTH KEY=VALUE\n`. Values that are not text, such as capabilities, are read loosely: only paths are used.
fn records(mut bytes: &[u8]) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let broken = "an extended header is broken";
        let blank = bytes.iter().position(|b| *b == b' ').context(broken)?;
        let length: usize = std::str::from_utf8(&bytes[..blank]).ok().and_then(|t| t.parse().ok()).context(broken)?;
        let record = bytes.get(blank + 1..length.saturating_sub(1)).context(broken)?;
        let equals = record.iter().position(|b| *b == b'=').context(broken)?;
        found.push((text(&record[..equals]), String::from_utf8_lossy(&record[equals + 1..]).into_owned()));
        bytes = &bytes[length..];
    }
    Ok(found)
}

/// Text up to the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An octal number, or GNU's binary one.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        return field[1..].iter().try_fold(0u64, |n, b| n.checked_mul(256).map(|n| n | u64::from(*b)));
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// `./usr/bin/` and `/usr/bin` as `usr/bin`.
fn plain(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_members_of_either_dialect_with_all_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let long = format!("./usr/{}/file", "x".repeat(120));
        let mut builder = tar::Builder::new(fs_err::File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        builder.append_pax_extensions([("SCHILY.xattr.user.a", b"\xff\x00=\n".as_slice())]).unwrap();
        builder.append_data(&mut header, "./etc/a", b"abc".as_slice()).unwrap();
        // GNU's long name.
        builder.append_data(&mut header.clone(), &long, b"def".as_slice()).unwrap();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        builder.append_link(&mut header, "./etc/b", "./etc/a").unwrap();
        builder.finish().unwrap();
        let (_, members) = open(&path).unwrap();
        let member = |path: &str, kind, link: &str, bytes, data| Member {
            path: path.into(),
            kind,
            link: link.into(),
            bytes,
            data,
        };
        assert_eq!(
            members,
            [
                member("etc/a", b'0', "", 0..2048, 1536..1539),
                member(&long[2..], b'0', "", 2048..4096, 3584..3587),
                member("etc/b", b'1', "etc/a", 4096..4608, 4608..4608),
            ]
        );
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        fs_err::write(&path, [0u8; 100]).unwrap();
        assert!(format!("{:#}", open(&path).unwrap_err()).contains("ends without its end mark at byte 0"));
        fs_err::write(&path, [b'x'; 1024]).unwrap();
        assert!(format!("{:#}", open(&path).unwrap_err()).contains("there is no tar header at byte 0"));
    }
}

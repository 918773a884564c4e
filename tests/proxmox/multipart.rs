//! The parser of uploads, as Proxmox has it: regular expressions over the stream, with all that they do not take.

use std::collections::BTreeMap;

/// An upload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    /// The fields before the file.
    pub(crate) fields: BTreeMap<String, String>,
    /// The name of the file.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// Takes an upload apart. What comes after the file is not looked at.
///
/// # Errors
/// With what the parser says, or would hang on.
pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<Upload, String> {
    let boundary = content_type
        .strip_prefix("multipart/form-data;")
        .and_then(|rest| rest.trim_start().strip_prefix("boundary="))
        .ok_or("upload without a boundary")?;
    let (mark, end) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    let mut fields = BTreeMap::new();
    let mut rest = body;
    loop {
        rest = rest.strip_prefix(mark.as_bytes()).ok_or("missing boundary")?;
        if rest.starts_with(b"--") {
            return Err("the upload ends without a file".into());
        }
        rest = rest.strip_prefix(b"\r\n").ok_or("missing newline after boundary")?;
        // First header of the part, exactly in this case and with this spacing.
        let head_end = find(rest, b"\r\n\r\n").ok_or("a part without an end of its headers")?;
        let head = std::str::from_utf8(&rest[..head_end]).map_err(|_| "headers that are no text")?;
        let first = head.split("\r\n").next().unwrap_or_default();
        let named = first
            .strip_prefix("Content-Disposition: form-data; name=\"")
            .ok_or("Content-Disposition is not the first header, just so")?;
        let (name, more) = named.split_once('"').ok_or("a name without an end")?;
        rest = &rest[head_end + 4..];
        if let Some(file) = more.strip_prefix("; filename=\"") {
            let file = file.strip_suffix('"').ok_or("a file name without an end")?;
            if name != "filename" {
                return Err(format!("the file's field is called '{name}' and not 'filename'"));
            }
            let until = find(rest, end.as_bytes()).ok_or("the file has no end")?;
            let name =
                file.chars().map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' }).collect();
            return Ok(Upload { fields, name, bytes: rest[..until].to_vec() });
        }
        if !more.is_empty() || head.contains("\r\n") {
            return Err(format!("field '{name}' has more headers than the parser takes"));
        }
        let until = find(rest, end.as_bytes()).ok_or("a field without an end")?;
        fields.insert(name.to_owned(), String::from_utf8_lossy(&rest[..until]).into_owned());
        rest = &rest[until + 2..];
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// Whether a file is what its name says, and stands alone: what Proxmox asks `qemu-img` about what it is handed.
pub(crate) fn is_sound_image(name: &str, bytes: &[u8]) -> Result<(), String> {
    let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
    let sound = |c: char| c.is_ascii_alphanumeric() || "-.+=_".contains(c);
    if stem.is_empty() || !stem.chars().all(sound) {
        return Err(format!("invalid filename or wrong extension: {name}"));
    }
    let be =
        |at: usize, n: usize| bytes.get(at..at + n).map(|b| b.iter().fold(0u64, |sum, b| (sum << 8) | u64::from(*b)));
    let is_qcow2 = bytes.starts_with(b"QFI\xfb");
    match name.rsplit('.').next() {
        Some("raw") => Ok(()),
        Some("qcow2") if !is_qcow2 => Err("file format 'raw' does not match extension 'qcow2'".into()),
        Some("qcow2") if be(8, 8) != Some(0) => Err("untrusted file has a backing file".into()),
        // Bit 2 of the incompatible features: the data are in another file.
        Some("qcow2") if be(4, 4) == Some(3) && be(72, 8).is_some_and(|bits| bits & 4 != 0) => {
            Err("untrusted file has a data file".into())
        }
        Some("qcow2") => Ok(()),
        _ => Err(format!("invalid filename or wrong extension: {name}")),
    }
}

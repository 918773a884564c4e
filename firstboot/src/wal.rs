//! The first records of etcd's write-ahead log: which member of which raft cluster wrote it. Pure, on bytes.
//!
//! Source: etcd 3.5 to 3.7, `server/storage/wal/{encoder,decoder,wal}.go`, `walpb/record.proto`, `etcdserverpb/etcdserver.proto`.
//! A file begins with a crc record (the sum carried over from the file before) and a metadata record. Each is framed by eight
//! little-endian bytes: the length in the lower 56 bits, and, when the top bit is set, the number of padding bytes in bits 56-58.

use crate::state::RaftId;

/// As many bytes of a file as [`parse_ids`] needs; both records together are under 100.
pub const HEAD_BYTES: usize = 4096;

const METADATA: u64 = 1;
const CRC: u64 = 4;
const SNAPSHOT: u64 = 5;

/// Why a log's ids cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// It ends before its second record does.
    #[error("it ends within its first two records")]
    Short,
    /// It is no record where one should be.
    #[error("its {0} record is malformed")]
    Malformed(&'static str),
    /// Another record than the one that must be there.
    #[error("its {0} record is missing")]
    Missing(&'static str),
    /// The metadata does not match its sum.
    #[error("its metadata record does not match its checksum")]
    Checksum,
}

/// Reads member and cluster id from the head of a log file.
///
/// # Errors
/// Anything but a crc record followed by a metadata record whose checksum holds. A log that cannot be read is never an absent one.
pub fn parse_ids(head: &[u8]) -> Result<(RaftId, RaftId), WalError> {
    let (first, rest) = frame(head, "first")?;
    let crc = record(first, "first")?;
    if crc.kind != CRC {
        return Err(WalError::Missing("crc"));
    }
    let (second, _) = frame(rest, "metadata")?;
    let metadata = record(second, "metadata")?;
    if metadata.kind != METADATA {
        return Err(WalError::Missing("metadata"));
    }
    if u64::from(crc32c(crc.crc, metadata.data)) != metadata.crc {
        return Err(WalError::Checksum);
    }
    let mut ids = (None, None);
    let malformed = WalError::Malformed("metadata");
    for field in Fields(metadata.data) {
        match field.ok_or(malformed)? {
            (1, Value::Number(id)) => ids.0 = Some(RaftId(id)),
            (2, Value::Number(id)) => ids.1 = Some(RaftId(id)),
            (_, Value::Number(_) | Value::Bytes(_)) => {}
        }
    }
    match ids {
        (Some(member), Some(cluster)) => Ok((member, cluster)),
        (None, _) | (_, None) => Err(malformed),
    }
}

/// The head of a log's only file has the header that etcd writes before it names the file (crc, metadata, an empty snapshot), and
/// nothing but zeros behind it: no entry and no vote was ever synced. Anything that is not surely so is not bare.
pub fn is_bare(head: &[u8]) -> bool {
    let mut rest = head;
    loop {
        if rest.iter().all(|byte| *byte == 0) {
            return true;
        }
        let Ok((bytes, behind)) = frame(rest, "next") else { return false };
        match record(bytes, "next") {
            Ok(Record { kind: METADATA | CRC | SNAPSHOT, .. }) => rest = behind,
            Ok(_) | Err(_) => return false,
        }
    }
}

/// Splits one framed record off `bytes`.
fn frame<'a>(bytes: &'a [u8], what: &'static str) -> Result<(&'a [u8], &'a [u8]), WalError> {
    let (header, rest) = bytes.split_first_chunk::<8>().ok_or(WalError::Short)?;
    let field = u64::from_le_bytes(*header);
    let length = usize::try_from(field & ((1 << 56) - 1)).map_err(|_| WalError::Malformed(what))?;
    let padding = if field >> 63 == 1 { usize::from(header[7] & 7) } else { 0 };
    // A preallocated file is zero behind its last record.
    if length == 0 {
        return Err(WalError::Missing(what));
    }
    let record = rest.get(..length).ok_or(WalError::Short)?;
    Ok((record, rest.get(length + padding..).unwrap_or_default()))
}

struct Record<'a> {
    kind: u64,
    crc: u64,
    data: &'a [u8],
}

fn record<'a>(bytes: &'a [u8], what: &'static str) -> Result<Record<'a>, WalError> {
    let mut record = Record { kind: 0, crc: 0, data: &[] };
    for field in Fields(bytes) {
        match field.ok_or(WalError::Malformed(what))? {
            (1, Value::Number(kind)) => record.kind = kind,
            (2, Value::Number(crc)) => record.crc = crc,
            (3, Value::Bytes(data)) => record.data = data,
            (_, Value::Number(_) | Value::Bytes(_)) => {}
        }
    }
    Ok(record)
}

/// The two kinds of protobuf value that these records have.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message; `None` once for what is not one, then the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

/// CRC-32C of `bytes`, carried on from `seed`. Bit by bit: it sums twenty bytes once per start.
fn crc32c(seed: u64, bytes: &[u8]) -> u32 {
    let mut crc = !u32::try_from(seed & u64::from(u32::MAX)).unwrap_or_default();
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &[u8] = include_bytes!("../fixtures/wal/etcd-3.5.30-founding.wal");
    const IDS: (RaftId, RaftId) = (RaftId(0x3510_d3b3_b2ac_148c), RaftId(0xd58e_ffd0_c307_8ee8));

    #[test]
    fn reads_the_ids_that_a_real_etcd_printed() {
        assert_eq!(parse_ids(REAL), Ok(IDS));
    }

    #[test]
    fn a_log_is_bare_until_its_first_entry() {
        assert!(!is_bare(REAL), "this etcd has founded a cluster");
        let mut kinds = Vec::new();
        let mut rest = REAL;
        while let Ok((bytes, behind)) = frame(rest, "next") {
            let at = REAL.len() - rest.len();
            kinds.push((record(bytes, "next").unwrap().kind, at));
            rest = behind;
        }
        let header: Vec<u64> = kinds.iter().map(|(kind, _)| *kind).take(3).collect();
        assert_eq!(header, [CRC, METADATA, SNAPSHOT], "what a real etcd writes first");
        let first_entry = kinds[3].1;
        let cut = |at: usize| [&REAL[..at], &vec![0; 4096 - at][..]].concat();
        assert!(is_bare(&cut(first_entry)));
        for torn in first_entry + 1..first_entry + 24 {
            assert!(!is_bare(&cut(torn)) || REAL[first_entry..torn].iter().all(|b| *b == 0), "torn at {torn}");
        }
    }

    #[test]
    fn tells_apart_what_is_wrong() {
        assert_eq!(parse_ids(&[]), Err(WalError::Short));
        assert_eq!(parse_ids(&REAL[..40]), Err(WalError::Short));
        assert_eq!(parse_ids(&[0; 4096]), Err(WalError::Missing("first")), "preallocated, never written");
        let mut swapped = REAL.to_vec();
        swapped.drain(..16);
        assert_eq!(parse_ids(&swapped), Err(WalError::Missing("crc")));
    }

    #[test]
    fn no_flipped_bit_of_the_metadata_passes_for_other_ids() {
        for at in 16..56 {
            for bit in 0..8 {
                let mut bent = REAL.to_vec();
                bent[at] ^= 1 << bit;
                assert!(!matches!(parse_ids(&bent), Ok(ids) if ids != IDS), "byte {at} bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_ids(&bytes);
        }
    }
}

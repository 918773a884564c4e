//! What a node says: structured entries with stable MESSAGE_IDs in the journal, and the same as plain lines on the console.
//!
//! The ids never change and are never reused; `journalctl MESSAGE_ID=...` finds an event in any version of kiln.
#![expect(clippy::print_stdout, reason = "the progress lines on the console are this file's purpose")]

use std::path::Path;
use std::sync::OnceLock;

use log::{Level, Log as _, Record};
use systemd_journal_logger::JournalLog;

/// Where journald listens; absent in a test and on a machine without systemd.
const SOCKET: &str = "run/systemd/journal/socket";

/// A kind of event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its MESSAGE_ID: 128 random bits in hex, drawn once.
    pub id: &'static str,
    /// How loud it is.
    pub level: Level,
}

/// The agent started. Fields: `KILN_IMAGE`, `KILN_BOOT`.
pub const STARTED: Event = Event { id: "7a1c2f4e0d5b4f6f9a3e6c1b82d40e17", level: Level::Info };
/// The disk step looked at the disks. Fields: `KILN_DISKS` (the facts as JSON).
pub const DISKS: Event = Event { id: "c2b9d0b1f6a74c0e8f0b7a5d3e914c68", level: Level::Info };
/// A new decision. Fields: `KILN_DECISION` (JSON), `KILN_ROW`.
pub const DECIDED: Event = Event { id: "1e8f3c6b7d2a4b5c8e9f0a1b2c3d4e5f", level: Level::Info };
/// The node waits. Fields: `KILN_SEEN`, `KILN_RULE`, `KILN_HINT`, `KILN_ROW`.
pub const WAITING: Event = Event { id: "5d0e6a9c83f14b7b9c2d1e7f40a8b356", level: Level::Warn };
/// The node halts. Fields: `KILN_SEEN`, `KILN_RULE`, `KILN_HINT`, `KILN_ROW`.
pub const HALTED: Event = Event { id: "b47e91d2c05a4e8d9f63a8170b2c5de4", level: Level::Error };
/// The phase in the state file changed. Fields: `KILN_PHASE`, `KILN_LINEAGE`, `KILN_MEMBER`.
pub const PHASE: Event = Event { id: "e3f80b57a6914d2c8b1d9c4e6f7a2035", level: Level::Info };
/// etcd was started. Fields: `KILN_ARGS`.
pub const ETCD_STARTED: Event = Event { id: "90c4d7e2b1f34a6a8d5e7b3c2f1a0968", level: Level::Info };
/// etcd is not running although it was started. Fields: `KILN_LAST_WORDS`.
pub const ETCD_FAILED: Event = Event { id: "3b6f1d8e7c2a45f09e4d5c6b7a8f9012", level: Level::Error };
/// A join was granted, refused or put off for another node. Fields: `KILN_PEER`, `KILN_ANSWER`.
pub const GRANT: Event = Event { id: "a85c0e3d9b7f4162b3d4e5f60718293a", level: Level::Info };
/// A blank node asked for the place of a member that lives: two machines use one name. Fields: `KILN_PEER`, `KILN_MEMBER`.
pub const DUPLICATE: Event = Event { id: "c6608a490f883dbc73f7ea24148e20c9", level: Level::Error };
/// A snapshot was taken and verified. Fields: `KILN_REVISION`.
pub const SNAPSHOT: Event = Event { id: "cb4f794ffbb380bae6312ee40a8d207c", level: Level::Info };
/// A voter was removed, so that a blank node takes its place. Fields: `KILN_PEER`, `KILN_MEMBER`.
pub const REMOVED: Event = Event { id: "680f60411910c1b747fcb5614e7f1fb5", level: Level::Warn };
/// A learner was promoted. Fields: `KILN_MEMBER`.
pub const PROMOTED: Event = Event { id: "6c7d8e9fa0b14c2d93e4f5a6b7c8d9e0", level: Level::Info };
/// The cluster is activated, as this node reads it.
pub const ACTIVATED: Event = Event { id: "d1a2b3c4e5f64718a9bacbdcedfe0f10", level: Level::Info };
/// The client port was opened.
pub const CLIENTS_OPEN: Event = Event { id: "f2e1d0c9b8a74695a4b3c2d1e0f9e8d7", level: Level::Info };
/// The leaf certificate was minted or renewed. Fields: `KILN_NOT_AFTER`.
pub const LEAF: Event = Event { id: "2f9a4c6e81b34d07a5c8e3f1d2b06974", level: Level::Info };
/// `precheck` refused a start of etcd. Fields: `KILN_SEEN`, `KILN_RULE`, `KILN_HINT`.
pub const START_REFUSED: Event = Event { id: "84d3e2c1b0af4e9d8c7b6a5948372615", level: Level::Error };
/// Something that a person should know but that changes nothing: an unexpected SRV record, an address outside the charter.
pub const NOTICE: Event = Event { id: "41b7c0de92f5483ab6d1e8a7c3f4059b", level: Level::Warn };

/// A learner's store is not the leader's: it was removed instead of promoted. Fields: `KILN_MEMBER`, `KILN_PEER`.
pub const LEARNER_DIFFERS: Event = Event { id: "6d086e83bfd26296b2e79e1986d07406", level: Level::Error };

/// An operator's revocation list was taken. Fields: `KILN_NUMBER`.
pub const REVOKED: Event = Event { id: "9d0f6a3b84c14e57b2a96f01c7e8d35a", level: Level::Warn };

/// All events, for the documentation and for the test that no id is used twice.
pub const EVENTS: [Event; 20] = [
    STARTED,
    DISKS,
    DECIDED,
    WAITING,
    HALTED,
    PHASE,
    ETCD_STARTED,
    ETCD_FAILED,
    GRANT,
    DUPLICATE,
    SNAPSHOT,
    REMOVED,
    PROMOTED,
    ACTIVATED,
    CLIENTS_OPEN,
    LEAF,
    START_REFUSED,
    NOTICE,
    LEARNER_DIFFERS,
    REVOKED,
];

static JOURNAL: OnceLock<Option<JournalLog>> = OnceLock::new();

/// Connects to the journal under `root`, if one listens there. Until this is called, and without a journal, events go to the
/// console alone.
pub fn connect(root: &Path) {
    let journal = root.join(SOCKET).exists().then(JournalLog::empty).and_then(Result::ok);
    let journal = journal.map(|log| log.with_syslog_identifier("firstboot".into()));
    // A second call finds the first one's connection, which is as good.
    let _ = JOURNAL.set(journal);
}

/// Tells one event: `text` on the console, `text` and `fields` in the journal.
///
/// Never fails: a full journal must not stop a node. Field names are upper case with the prefix `KILN_`.
pub fn tell(event: &Event, text: &str, fields: &[(&str, &str)]) {
    println!("kiln: {text}");
    record(event, text, fields);
}

/// As [`tell`], but in the journal alone: for detail that would drown a reader of the console.
pub fn record(event: &Event, text: &str, fields: &[(&str, &str)]) {
    let Some(Some(journal)) = JOURNAL.get() else { return };
    let pairs: Vec<(&str, &str)> = [("MESSAGE_ID", event.id)].into_iter().chain(fields.iter().copied()).collect();
    let pairs = pairs.as_slice();
    journal.log(
        &Record::builder()
            .level(event.level)
            .target("firstboot")
            .key_values(&pairs)
            .args(format_args!("{text}"))
            .build(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_event_has_an_id_of_its_own() {
        let ids: BTreeSet<&str> = EVENTS.iter().map(|event| event.id).collect();
        assert_eq!(ids.len(), EVENTS.len());
        for id in ids {
            assert!(id.parse::<crate::digest::Id128>().is_ok(), "{id}");
        }
    }
}

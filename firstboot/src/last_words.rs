//! What etcd or precheck said last, for a sentence and for one decision: whether the cluster has removed this member.
//!
//! etcd logs JSON, and after the line that matters it tells of every peer it stops talking to: nine lines per peer in 3.5. The line that
//! says why it stops is therefore looked for in everything said since this start, and stands first.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

/// What `server.run` of etcd 3.5 to 3.7 says before it stops by itself, whether it was told of the removal while it ran or by the first
/// peer it talked to after its start (`server/etcdserver/server.go`; `errMemberRemoved` of `rafthttp`).
const REMOVED: &str = "server error: the member has been permanently removed from the cluster";
/// How many of the last lines are told.
const LINES: usize = 4;

/// The lines of one start of etcd as one sentence: the one that says why it ended, if one does, and the last few.
pub fn last_words<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let said: Vec<String> = lines.into_iter().filter(|line| !line.trim().is_empty()).map(plain).collect();
    let tail = said.len().saturating_sub(LINES);
    let reason = said[..tail].iter().rev().find(|line| is_reason(line));
    reason.into_iter().chain(&said[tail..]).map(String::as_str).collect::<Vec<_>>().join("; ")
}

/// Whether they say that the cluster removed this member for good.
pub fn tell_of_removal(last_words: &str) -> bool {
    last_words.contains(REMOVED)
}

/// The messages of the journal's entries, one JSON object per line, that belong to the unit's latest start. What an earlier start said,
/// perhaps under another member id, does not count.
pub fn of_latest_start(journal: &str) -> Vec<String> {
    let entries: Vec<serde_json::Value> = journal.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    // systemd's own entries about the unit name its start in one field, those of its processes in the other.
    let start = |entry: &serde_json::Value| {
        let named = entry.get("INVOCATION_ID").or_else(|| entry.get("_SYSTEMD_INVOCATION_ID"));
        named.and_then(serde_json::Value::as_str).map(str::to_owned)
    };
    let Some(latest) = entries.iter().rev().find_map(start) else { return Vec::new() };
    let of_it = entries.iter().filter(|entry| start(entry).as_ref() == Some(&latest));
    of_it.filter_map(|entry| entry.get("MESSAGE")?.as_str().map(str::to_owned)).collect()
}

fn is_reason(line: &str) -> bool {
    line.starts_with("server error: ") || line.starts_with("panic") || line.starts_with("failed to start etcd")
}

/// The message of a line of JSON, or the line.
fn plain(line: &str) -> String {
    let Ok(serde_json::Value::Object(entry)) = serde_json::from_str(line) else { return line.to_owned() };
    let text = |key: &str| entry.get(key).and_then(serde_json::Value::as_str);
    match (text("msg"), text("error")) {
        (Some(message), Some(error)) => format!("{message}: {error}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_message_out_of_etcds_lines() {
        let line = r#"{"level":"fatal","msg":"discovery failed","error":"member count is unequal"}"#;
        assert_eq!(last_words([line]), "discovery failed: member count is unequal");
        assert_eq!(last_words(["firstboot: etcd may not start"]), "firstboot: etcd may not start");
        assert_eq!(last_words(["a", "", "b", "c", "d", "e"]), "b; c; d; e");
        assert_eq!(last_words([]), "");
    }

    /// E20: what a real etcd 3.5.30 said when it was removed: while it ran, and at its next start.
    #[test]
    fn e20_finds_the_removal_before_everything_etcd_says_while_it_stops() {
        let logs =
            [include_str!("../fixtures/log/removed-while-running"), include_str!("../fixtures/log/removed-while-down")];
        for log in logs {
            let words = last_words(log.lines());
            assert!(words.starts_with(REMOVED) && tell_of_removal(&words), "{words}");
            assert_eq!(words.matches("; ").count(), LINES, "{words}");
        }
    }

    #[test]
    fn hears_only_the_latest_start() {
        let journal = r#"{"MESSAGE":"Starting etcd","INVOCATION_ID":"a","_SYSTEMD_INVOCATION_ID":"pid1"}
{"MESSAGE":"server error of old","_SYSTEMD_INVOCATION_ID":"a"}
{"MESSAGE":"Starting etcd again","INVOCATION_ID":"b","_SYSTEMD_INVOCATION_ID":"pid1"}
{"MESSAGE":"one","_SYSTEMD_INVOCATION_ID":"b"}
{"MESSAGE":[1,2],"_SYSTEMD_INVOCATION_ID":"b"}
{"MESSAGE":"etcd.service: Deactivated successfully.","INVOCATION_ID":"b"}"#;
        let expected = ["Starting etcd again", "one", "etcd.service: Deactivated successfully."];
        assert_eq!(of_latest_start(journal), expected);
        assert_eq!(of_latest_start(""), Vec::<String>::new());
        assert_eq!(of_latest_start("-- No entries --"), Vec::<String>::new());
    }

    #[test]
    fn does_not_take_the_removal_of_another_for_its_own() {
        let other = r#"{"level":"warn","msg":"rejected stream from remote peer because it was removed","error":"the member has been permanently removed from the cluster"}"#;
        let dial = r#"{"msg":"peer became inactive (message send to peer failed)","error":"failed to dial b71f on stream MsgApp v2 (the member has been permanently removed from the cluster)"}"#;
        assert!(!tell_of_removal(&last_words([other, dial])));
    }
}

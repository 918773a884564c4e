//! etcd numbers its writes. Do the numbers explain every answer?
//!
//! An order of all writes to all keys is given with the answers, so this needs no search and decides any history at once. It is
//! stricter than linearizability: a revision that falls, or that two writes share, is a second history of the store.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Ask, History, Operation, Outcome};

/// The writes that somebody was told of: by the one who wrote, or by one who read.
#[derive(Debug, Default)]
struct Writes<'a> {
    /// Revision to key and value.
    by_revision: BTreeMap<u64, (&'a str, &'a str)>,
    /// Key to its revisions.
    by_key: HashMap<&'a str, BTreeMap<u64, &'a str>>,
}

/// Judges a history.
///
/// # Errors
/// With the first contradiction found.
pub fn check(history: &History) -> Result<(), String> {
    let writes = writes(history)?;
    for op in &history.operations {
        match (&op.outcome, &op.ask) {
            (Outcome::Read { found, revision }, _) => {
                let last = last_before(&writes, &op.key, revision + 1);
                let found = found.as_ref().map(|(value, r)| (*r, value.as_str()));
                if found != last {
                    return Err(format!("at revision {revision} `{}` was {last:?}: {op:?}", op.key));
                }
            }
            (Outcome::Written { revision }, Ask::Swap { expected, .. }) => {
                let last = last_before(&writes, &op.key, *revision).map(|(_, value)| value);
                if expected.as_deref() != last {
                    return Err(format!("before revision {revision} `{}` was {last:?}: {op:?}", op.key));
                }
            }
            (Outcome::Written { .. }, Ask::Get | Ask::Put(_)) | (Outcome::Unknown, _) => {}
        }
    }
    in_real_time(history)
}

fn last_before<'a>(writes: &Writes<'a>, key: &str, revision: u64) -> Option<(u64, &'a str)> {
    writes.by_key.get(key)?.range(..revision).next_back().map(|(r, value)| (*r, *value))
}

fn writes(history: &History) -> Result<Writes<'_>, String> {
    let mut asked: HashMap<(&str, &str), &Operation> = HashMap::new();
    for op in &history.operations {
        if let Some(value) = op.ask.value()
            && let Some(other) = asked.insert((&op.key, value), op)
        {
            return Err(format!("one value was written twice; such a history cannot be judged: {op:?} {other:?}"));
        }
    }
    let mut writes = Writes::default();
    for op in &history.operations {
        let (value, revision) = match &op.outcome {
            Outcome::Written { revision } => match op.ask.value() {
                Some(value) => (value, *revision),
                None => return Err(format!("a read wrote: {op:?}")),
            },
            Outcome::Read { found: Some((value, revision)), .. } => (value.as_str(), *revision),
            Outcome::Read { found: None, .. } | Outcome::Unknown => continue,
        };
        let Some(writer) = asked.get(&(op.key.as_str(), value)) else {
            return Err(format!("nobody wrote `{value}`: {op:?}"));
        };
        let done = match &writer.outcome {
            Outcome::Written { revision: own } => *own == revision,
            Outcome::Unknown => writer.invoked < op.returned,
            Outcome::Read { .. } => false,
        };
        if !done {
            return Err(format!("{writer:?} cannot have written what was seen: {op:?}"));
        }
        let known = writes.by_revision.insert(revision, (&op.key, value));
        if known.is_some_and(|known| known != (op.key.as_str(), value)) {
            return Err(format!("two writes have the revision {revision}: {known:?}, {op:?}"));
        }
        writes.by_key.entry(&op.key).or_default().insert(revision, value);
    }
    for revisions in writes.by_key.values() {
        let mut values: Vec<&str> = revisions.values().copied().collect();
        values.sort_unstable();
        if let Some(twice) = values.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("`{}` was written by two revisions: {revisions:?}", twice[0]));
        }
    }
    Ok(writes)
}

/// What is asked after an answer with some revision is answered with none that is lower, and a write with a higher one.
fn in_real_time(history: &History) -> Result<(), String> {
    let told: Vec<(&Operation, u64, bool)> = history
        .operations
        .iter()
        .filter_map(|op| match op.outcome {
            Outcome::Written { revision } => Some((op, revision, true)),
            Outcome::Read { revision, .. } => Some((op, revision, false)),
            Outcome::Unknown => None,
        })
        .collect();
    let mut by_answer = told.clone();
    by_answer.sort_by_key(|(op, _, _)| op.returned);
    let mut by_call = told;
    by_call.sort_by_key(|(op, _, _)| op.invoked);
    let mut answers = by_answer.into_iter().peekable();
    let mut highest: Option<(&Operation, u64)> = None;
    for (op, revision, wrote) in by_call {
        while let Some((before, known, _)) = answers.next_if(|(before, _, _)| before.returned < op.invoked) {
            if highest.is_none_or(|(_, high)| known > high) {
                highest = Some((before, known));
            }
        }
        if let Some((before, high)) = highest
            && (revision < high || wrote && revision == high)
        {
            return Err(format!("the revision fell: after {before:?} came {op:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{get, lost, op, put, swap};

    fn judged(operations: Vec<Operation>) -> Result<(), String> {
        check(&History { operations })
    }

    #[test]
    fn accepts_what_etcd_does() {
        judged(vec![
            get(None, (0, 1), 1),
            put("a", (2, 8), 4),
            lost("b", (3, 4)),
            get(Some(("b", 3)), (5, 7), 3),
            swap(Some("a"), "c", (9, 10), 7),
            get(Some(("c", 7)), (11, 12), 9),
            lost("d", (13, 14)),
        ])
        .unwrap();
    }

    #[test]
    fn finds_a_stale_read() {
        let stale = vec![put("a", (0, 1), 2), put("b", (2, 3), 3), get(Some(("a", 2)), (4, 5), 2)];
        assert!(judged(stale).unwrap_err().contains("the revision fell"));
        judged(vec![put("a", (0, 1), 2), put("b", (2, 3), 3), get(Some(("a", 2)), (4, 5), 3)]).unwrap_err();
    }

    #[test]
    fn finds_a_lost_write() {
        judged(vec![put("a", (0, 1), 5), get(None, (2, 3), 9)]).unwrap_err();
        judged(vec![put("a", (0, 1), 5), get(None, (2, 3), 4)]).unwrap_err();
        judged(vec![put("a", (0, 1), 5), put("b", (2, 3), 4)]).unwrap_err();
    }

    #[test]
    fn finds_a_split_brain() {
        let shared = vec![put("left", (0, 9), 2), put("right", (0, 9), 2)];
        assert!(judged(shared).unwrap_err().contains("two writes have the revision 2"));
        let twice = vec![put("a", (0, 1), 2), swap(Some("a"), "b", (2, 9), 3), swap(Some("a"), "c", (2, 9), 4)];
        judged(twice).unwrap_err();
        let read_twice = vec![lost("a", (0, 1)), get(Some(("a", 2)), (2, 3), 2), get(Some(("a", 3)), (4, 5), 3)];
        judged(read_twice).unwrap_err();
    }

    #[test]
    fn finds_what_nobody_wrote() {
        judged(vec![get(Some(("ghost", 2)), (0, 1), 2)]).unwrap_err();
        let ask = Ask::Swap { expected: Some("z".into()), value: "a".into() };
        let missed = op("k", ask, (0, 1), Outcome::Read { found: None, revision: 1 });
        judged(vec![missed, get(Some(("a", 2)), (2, 3), 2)]).unwrap_err();
        judged(vec![get(Some(("later", 2)), (0, 1), 2), lost("later", (2, 3))]).unwrap_err();
    }
}

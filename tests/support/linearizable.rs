//! Is there an order of the calls, each at one moment between its invocation and its answer, that explains every answer?
//!
//! The search of Wing and Gong with Lowe's memory of configurations already tried, for each key by itself: a history of several
//! registers is linearizable exactly when each register's part is. It looks at values and times only, never at etcd's revisions;
//! [`crate::revisions`] judges those.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Ask, History, Outcome};

/// No value is there.
const NOTHING: u32 = 0;

/// A call that was done, as the search sees it.
#[derive(Clone, Copy, Debug)]
struct Call {
    invoked: u64,
    returned: u64,
    step: Step,
    /// Its place in the history, to tell.
    index: usize,
}

/// What a call does to a register, values being numbers.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u32),
    Swap {
        expected: u32,
        value: u32,
    },
    Read(u32),
    /// A swap that found something else than it expected.
    Miss {
        expected: u32,
        found: u32,
    },
}

/// Judges a history.
///
/// # Errors
/// With the first key that no order explains, and how far an order got.
pub fn check(history: &History) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, op) in history.operations.iter().enumerate() {
        keys.entry(&op.key).or_default().push(index);
    }
    for (key, indices) in keys {
        let calls = calls(history, &indices)?;
        if let Err(stuck) = search(&calls) {
            let from = stuck.saturating_sub(3);
            let story: Vec<String> = calls[from..calls.len().min(stuck + 8)]
                .iter()
                .map(|call| format!("  {:?}", history.operations[call.index]))
                .collect();
            return Err(format!("`{key}` is not linearizable; no order gets past\n{}", story.join("\n")));
        }
    }
    Ok(())
}

/// The calls on one key that must be explained, by invocation.
///
/// A write without an answer counts only when its value was seen, and then it was done before the first who saw it was answered.
/// One that nobody saw may as well never have been done.
fn calls(history: &History, indices: &[usize]) -> Result<Vec<Call>, String> {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    for index in indices {
        if let Some(value) = history.operations[*index].ask.value() {
            let next = u32::try_from(numbers.len() + 1).expect("fewer than 2^32 values");
            if numbers.insert(value, next).is_some() {
                return Err(format!("the value `{value}` is written twice; such a history cannot be judged"));
            }
        }
    }
    let unwritten = u32::MAX;
    let number = |value: Option<&str>| value.map_or(NOTHING, |v| numbers.get(v).copied().unwrap_or(unwritten));
    let mut seen_by: HashMap<u32, u64> = HashMap::new();
    for index in indices {
        let op = &history.operations[*index];
        let seen = match (&op.ask, &op.outcome) {
            (_, Outcome::Read { found, .. }) => number(found.as_ref().map(|(value, _)| value.as_str())),
            (Ask::Swap { expected, .. }, Outcome::Written { .. }) => number(expected.as_deref()),
            (Ask::Get | Ask::Put(_), Outcome::Written { .. }) | (_, Outcome::Unknown) => continue,
        };
        let first = seen_by.entry(seen).or_insert(op.returned);
        *first = op.returned.min(*first);
    }
    let mut calls = Vec::new();
    for index in indices {
        let op = &history.operations[*index];
        let expected = |ask: &Ask| match ask {
            Ask::Swap { expected, .. } => Some(number(expected.as_deref())),
            Ask::Get | Ask::Put(_) => None,
        };
        let write = op.ask.value().map(|value| match expected(&op.ask) {
            Some(expected) => Step::Swap { expected, value: number(Some(value)) },
            None => Step::Write(number(Some(value))),
        });
        let (step, returned) = match (&op.outcome, write) {
            (Outcome::Unknown, None) => continue,
            (Outcome::Unknown, Some(step)) => match seen_by.get(&number(op.ask.value())) {
                Some(first) => (step, *first),
                None => continue,
            },
            (Outcome::Written { .. }, Some(step)) => (step, op.returned),
            (Outcome::Written { .. }, None) => return Err(format!("a read wrote: {op:?}")),
            (Outcome::Read { found, .. }, _) => {
                let found = number(found.as_ref().map(|(value, _)| value.as_str()));
                let step = expected(&op.ask).map_or(Step::Read(found), |expected| Step::Miss { expected, found });
                (step, op.returned)
            }
        };
        calls.push(Call { invoked: op.invoked, returned, step, index: *index });
    }
    calls.sort_by_key(|call| (call.invoked, call.returned));
    Ok(calls)
}

/// How far a search is: every call before `base` is placed, and of the later ones those in `ahead`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    base: usize,
    ahead: Vec<usize>,
    value: u32,
}

/// Finds an order, or tells the first call that no order could place.
fn search(calls: &[Call]) -> Result<(), usize> {
    let start = Configuration { base: 0, ahead: Vec::new(), value: NOTHING };
    let mut tried = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut furthest = 0;
    while let Some(here) = open.pop() {
        furthest = furthest.max(here.base);
        if here.base == calls.len() {
            return Ok(());
        }
        // A call may be next unless another one that is not placed yet was answered before it was asked.
        let mut earliest_answer = u64::MAX;
        for (index, call) in calls.iter().enumerate().skip(here.base) {
            if call.invoked > earliest_answer {
                break;
            }
            if here.ahead.binary_search(&index).is_ok() {
                continue;
            }
            earliest_answer = earliest_answer.min(call.returned);
            if let Some(value) = after(call.step, here.value) {
                let next = place(&here, index, value);
                if tried.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    Err(furthest)
}

fn after(step: Step, value: u32) -> Option<u32> {
    match step {
        Step::Write(new) => Some(new),
        Step::Swap { expected, value: new } => (value == expected).then_some(new),
        Step::Read(found) => (value == found).then_some(value),
        Step::Miss { expected, found } => (value == found && found != expected).then_some(value),
    }
}

fn place(here: &Configuration, index: usize, value: u32) -> Configuration {
    let mut next = Configuration { base: here.base, ahead: here.ahead.clone(), value };
    let at = next.ahead.binary_search(&index).unwrap_or_else(|at| at);
    next.ahead.insert(at, index);
    while next.ahead.first() == Some(&next.base) {
        next.ahead.remove(0);
        next.base += 1;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Operation, get, lost, op, put, swap};

    fn judged(operations: Vec<Operation>) -> Result<(), String> {
        check(&History { operations })
    }

    #[test]
    fn accepts_calls_that_overlap_in_any_order_that_explains_them() {
        judged(vec![
            put("a", (0, 10), 2),
            put("b", (5, 15), 3),
            get(Some(("b", 3)), (6, 9), 3),
            get(Some(("a", 2)), (11, 14), 3),
            get(Some(("a", 2)), (16, 17), 3),
        ])
        .expect("b, read b, a, read a, read a");
        judged(vec![
            put("a", (0, 10), 2),
            put("b", (5, 15), 3),
            get(Some(("a", 2)), (6, 9), 2),
            get(Some(("b", 3)), (11, 14), 3),
            swap(Some("b"), "c", (16, 18), 4),
            get(Some(("c", 4)), (17, 30), 4),
        ])
        .expect("a, read a, b, read b, swap, read c");
    }

    #[test]
    fn finds_a_stale_read() {
        let history = vec![put("a", (0, 1), 2), put("b", (2, 3), 3), get(Some(("a", 2)), (4, 5), 2)];
        assert!(judged(history).unwrap_err().contains("`k` is not linearizable"));
    }

    #[test]
    fn finds_a_lost_write() {
        judged(vec![put("a", (0, 1), 2), get(None, (2, 3), 1)]).unwrap_err();
        judged(vec![put("a", (0, 1), 2), put("b", (2, 3), 3), swap(Some("a"), "c", (4, 5), 3)]).unwrap_err();
    }

    #[test]
    fn finds_a_split_brain() {
        // Two sides take writes, and each reads its own.
        let history = vec![
            put("a", (0, 1), 2),
            put("left", (2, 10), 3),
            put("right", (2, 10), 3),
            get(Some(("left", 3)), (11, 12), 3),
            get(Some(("right", 3)), (13, 14), 3),
            get(Some(("left", 3)), (15, 16), 3),
        ];
        judged(history).unwrap_err();
        // Two swaps of one value both succeed.
        judged(vec![put("a", (0, 1), 2), swap(Some("a"), "b", (2, 9), 3), swap(Some("a"), "c", (2, 9), 3)])
            .unwrap_err();
    }

    #[test]
    fn finds_a_value_that_nobody_wrote() {
        judged(vec![get(Some(("ghost", 2)), (0, 1), 2)]).unwrap_err();
        let ask = Ask::Swap { expected: Some("z".into()), value: "a".into() };
        let missed = op("k", ask, (0, 1), Outcome::Read { found: None, revision: 1 });
        judged(vec![missed, get(Some(("a", 2)), (2, 3), 2)]).unwrap_err();
    }

    #[test]
    fn a_write_without_an_answer_may_have_been_done_then_later_or_never_but_only_once() {
        judged(vec![put("a", (0, 1), 2), lost("b", (2, 3)), get(Some(("a", 2)), (4, 5), 2)]).unwrap();
        judged(vec![
            put("a", (0, 1), 2),
            lost("b", (2, 3)),
            get(Some(("a", 2)), (4, 5), 2),
            get(Some(("b", 3)), (6, 7), 3),
        ])
        .unwrap();
        judged(vec![
            put("a", (0, 1), 2),
            lost("b", (2, 3)),
            get(Some(("b", 3)), (4, 5), 3),
            get(Some(("a", 2)), (6, 7), 3),
        ])
        .unwrap_err();
        judged(vec![get(Some(("b", 2)), (0, 1), 2), lost("b", (2, 3))]).unwrap_err();
    }

    #[test]
    fn a_missed_swap_is_a_read_of_something_else_than_expected() {
        let miss = |expected: &str, found: &str| {
            let ask = Ask::Swap { expected: Some(expected.into()), value: "new".into() };
            op("k", ask, (4, 5), Outcome::Read { found: Some((found.into(), 2)), revision: 2 })
        };
        judged(vec![put("a", (0, 1), 2), miss("z", "a")]).unwrap();
        judged(vec![put("a", (0, 1), 2), miss("a", "a")]).unwrap_err();
        judged(vec![put("a", (0, 1), 2), put("b", (2, 3), 3), miss("z", "a")]).unwrap_err();
    }

    #[test]
    fn keys_are_judged_each_by_itself() {
        let elsewhere = |mut operation: Operation| {
            operation.key = "other".into();
            operation
        };
        judged(vec![put("a", (0, 1), 2), elsewhere(get(None, (2, 3), 2)), get(Some(("a", 2)), (2, 3), 2)]).unwrap();
        judged(vec![elsewhere(put("a", (0, 1), 2)), get(Some(("a", 2)), (2, 3), 2)]).unwrap_err();
    }

    #[test]
    fn a_long_history_of_many_clients_is_decided_quickly() {
        let mut operations = Vec::new();
        for n in 0..20_000_u64 {
            let at = n * 10;
            operations.push(put(&format!("v{n}"), (at, at + 9), n));
            operations.push(get(Some((&format!("v{n}"), n)), (at + 1, at + 12), n));
            operations.push(lost(&format!("lost{n}"), (at + 2, at + 4)));
        }
        judged(operations.clone()).unwrap();
        operations.push(get(Some(("v19998", 19_998)), (300_000, 300_001), 19_998));
        judged(operations).unwrap_err();
    }
}

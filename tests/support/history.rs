//! What clients asked of the cluster and what they were told, in the order of one clock.

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key it was about.
    pub key: String,
    /// What was asked.
    pub ask: Ask,
    /// When it was asked: nanoseconds since the history began.
    pub invoked: u64,
    /// When the answer, or the failure, was there.
    pub returned: u64,
    /// What the answer was.
    pub outcome: Outcome,
}

/// What is asked of one key. Values are never written twice in one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The value, read linearizably.
    Get,
    /// This value, whatever was there.
    Put(String),
    /// This value, if there is the expected one (or nothing).
    Swap {
        /// What must be there.
        expected: Option<String>,
        /// What shall be there.
        value: String,
    },
}

impl Ask {
    /// The value it would write.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Get => None,
            Self::Put(value) | Self::Swap { value, .. } => Some(value),
        }
    }
}

/// What came of it. Revisions are etcd's: one for the whole store, one more with each write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent and no answer came: it may have been done, may be done later, or never.
    Unknown,
    /// It was done, as this revision.
    Written {
        /// The revision that it made.
        revision: u64,
    },
    /// This was there. For a swap: something else than expected, so nothing was written.
    Read {
        /// The value and the revision that wrote it.
        found: Option<(String, u64)>,
        /// The store's revision at the read.
        revision: u64,
    },
}

/// All that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In no order.
    pub operations: Vec<Operation>,
}

impl History {
    /// Every acknowledged write: key, value, revision.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.operations.iter().filter_map(|op| match (&op.outcome, op.ask.value()) {
            (Outcome::Written { revision }, Some(value)) => Some((op.key.as_str(), value, *revision)),
            (Outcome::Unknown | Outcome::Read { .. } | Outcome::Written { .. }, _) => None,
        })
    }

    /// The highest revision that any client was told of.
    pub fn revision(&self) -> u64 {
        let told = |op: &Operation| match op.outcome {
            Outcome::Unknown => 0,
            Outcome::Written { revision } | Outcome::Read { revision, .. } => revision,
        };
        self.operations.iter().map(told).max().unwrap_or(0)
    }
}

/// One line of a history, for the unit tests of what judges it.
#[cfg(test)]
pub(crate) fn op(key: &str, ask: Ask, (invoked, returned): (u64, u64), outcome: Outcome) -> Operation {
    Operation { key: key.to_owned(), ask, invoked, returned, outcome }
}

/// A put of `value` that made `revision`.
#[cfg(test)]
pub(crate) fn put(value: &str, at: (u64, u64), revision: u64) -> Operation {
    op("k", Ask::Put(value.to_owned()), at, Outcome::Written { revision })
}

/// A put of which nothing was heard.
#[cfg(test)]
pub(crate) fn lost(value: &str, at: (u64, u64)) -> Operation {
    op("k", Ask::Put(value.to_owned()), at, Outcome::Unknown)
}

/// A read at `revision` that found a value and its revision.
#[cfg(test)]
pub(crate) fn get(found: Option<(&str, u64)>, at: (u64, u64), revision: u64) -> Operation {
    op("k", Ask::Get, at, Outcome::Read { found: found.map(|(value, r)| (value.to_owned(), r)), revision })
}

/// A swap of `expected` for `value` that was done as `revision`.
#[cfg(test)]
pub(crate) fn swap(expected: Option<&str>, value: &str, at: (u64, u64), revision: u64) -> Operation {
    let ask = Ask::Swap { expected: expected.map(str::to_owned), value: value.to_owned() };
    op("k", ask, at, Outcome::Written { revision })
}

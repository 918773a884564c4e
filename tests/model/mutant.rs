//! Known-bad variants of kiln: each bends one rule around the real functions, and the checker must find what that breaks.

/// A variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The cluster token follows from the configuration: forming again gives the same ids (etcd#9630).
    StaticToken,
    /// A wiped voter gets its old raft id back (etcd#2706).
    IdReused,
    /// Any blank node forms, and all form the same cluster with every member a voter: etcd's usual bootstrap with a static token.
    Symmetric,
    /// A majority of voters activates.
    ActivationByMajority,
    /// Clients are admitted as soon as etcd serves.
    NoGate,
    /// Who is not in SRV does not count.
    SrvDenominator,
    /// A mount point with nothing mounted is a blank disk.
    UnmountedIsBlank,
    /// A member that does not answer is blank.
    SilenceIsBlank,
    /// As before, and no gate.
    SilenceIsBlankNoGate,
    /// A member that holds data does not stand in the way of forming.
    DataHolderIgnored,
    /// A member that has halted does not stand in the way of forming.
    HaltedIsBlank,
    /// The founder forms when it is blank, whatever the window.
    FormAfterWindow,
    /// Any node forms, each its own lineage.
    AnyoneForms,
    /// A voter is removed although it is heard and its port is in use.
    NoLiveness,
    /// The volume's instance is not compared.
    SameVolumeReplaced,
    /// A second voter is removed while one is missing already.
    TwoHoles,
    /// A voter is removed while others do not answer.
    RemovalUnderSilence,
    /// A place is granted for a name that is not the caller's.
    ForeignName,
    /// A learner is promoted before it has started.
    PromotedUnstarted,
    /// A node that dropped its assignment starts again under the same id.
    DroppedIdReused,
    /// etcd is started before the attempt is recorded.
    AttemptNotRecorded,
    /// systemd restarts etcd without precheck.
    NoPrecheck,
    /// Who was evicted starts anew by itself.
    EvictedStartsAnew,
    /// A member without its log counts as blank.
    LostLogIsBlank,
    /// As before, and etcd is started under the old id.
    LostLogRestarts,
    /// A restart waits until some peer answers.
    RestartAsksPeers,
    /// A later boot that a peer remembers is ignored.
    RollbackIgnored,
    /// One member's word is enough to join an activated lineage.
    OneLiarBelieved,
    /// A volume of a later generation is taken over by an earlier charter.
    GenerationIgnored,
}

impl Mutant {
    /// Clients are let in without activation.
    pub fn opens_the_gate(this: Option<Self>) -> bool {
        matches!(this, Some(Self::NoGate | Self::SilenceIsBlankNoGate | Self::Symmetric))
    }

    /// Every formation has the same lineage.
    pub fn has_one_token(this: Option<Self>) -> bool {
        matches!(this, Some(Self::StaticToken | Self::Symmetric))
    }
}

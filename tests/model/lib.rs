//! kiln's own decisions inside a model checker: every order of steps, crashes and losses of a small cluster.
//!
//! # What is checked
//! `decide::decide`, `grant::decide_grant` (with `replacement`), `custody::{promotable, complete}`, `standing::status`, `precheck::judge` and
//! `raft_id` are *the very functions that run on a node*, called with observations built from a state of the model ([`view`], [`plea`]).
//! What the model adds is the world around them: disks, power, raft, messages, clients ([`world`], [`raft`], [`node`], [`grantor`]) and what
//! breaks ([`fault`]). The laws are [`law::Law`]: I1 to I11 of the protocol, and what they lean on. stateright explores all orders.
//!
//! # The world
//! - A node: a disk (state phase, ids in etcd's log, how much of the log, `activated_seen`, instance, generation, boot counter), power, whether the
//!   disk is mounted, etcd (down, starting on an empty log, up), what its agent last told (`Seat`), what it has decided and not done yet.
//! - Looking and acting are two steps wherever the act rests on others' answers (form, join, grant, remove): answers may be stale by any
//!   number of steps, not only one. What rests on the own disk alone is done as it is decided, except that every state a power cut can leave
//!   on a disk is a state of the model: blank, founding, assigned, attempted, log there and member not yet written, member.
//! - Any answer may be lost at any time, at no cost: every round is tried with every subset of the answers. A grant may be lost, or given to
//!   a caller that has given up. Partitions of raft are the choice of the quorum: any majority that runs may commit alone, others lag.
//! - Raft ([`raft`]): an entry is appended, replicated and committed in one step. Replicas hold prefixes of one log, and what counts of a
//!   prefix is its order by length and the member list in it. Whoever has as much votes; a leader elected without a committed entry is a
//!   violation (I2) at once, whether or not a client wrote it. Member lists are log entries: a replica that lags elects by the old one. etcd's
//!   own guards that are modelled: one member per peer URL, promotion of a learner that has (nearly) caught up only.
//! - Time is what the adversary makes of it: "unheard for a minute", "a learner for five minutes", a lock's lease may pass at once. Only
//!   limits that count (one removal in ten minutes) are taken as passed.
//! - Logs and ids have no length: [`normal`] merges what no replica can tell apart and numbers ids anew, so that any number of writes, joins
//!   and boots is a finite number of states, and "exhausted" means all of them. Budgets bound faults only; some are unlimited.
//! - Nodes other than the founder are interchangeable and sorted (`Cluster::sort`). No function under test depends on their order but
//!   for whom to ask first, and the model asks everybody that may be asked. A trace's node numbers may swap from one step to the next.
//!
//! # What is left out
//! Uncommitted suffixes of logs and terms; snapshots' content and hashes (P9 is a flag); versions (one); clocks, certificates, DNS of the own name (unit
//! tests of `decide` and `identity`); disks that lie about fsync; a peer that lies to raft (a liar here lies in its status only); several
//! instants within one round of questions (all answers are of one instant, which may be long past when they are acted on); the agent's back-off; the
//! operator, but for seeds of a next generation. Copies of machines are copies of blank ones; later copies and snapshots are told apart
//! by the boot counter, which is modelled where a disk is put back to a snapshot.
//!
//! # What is not promised ([`plans::limits`], and a test that they are as said)
//! - A volume put back to a snapshot starts on its log like any other (I8) and votes until a peer that remembers it answers: I2 may break in that
//!   time. From then on it halts for good (law `Witness`).
//! - Where two machines bear one name (or a wiped disk comes back from a snapshot), and the one that was silent starts between a grantor's look and its removal, milliseconds, it loses its vote.
//!   etcd has no conditional removal. I1, I2, I4 and I6 hold without that race; the machine ends as evicted, and nothing it held is the only copy.
//! - A founder wiped before activation can leave a lineage without a majority of its voters: the next generation is the way out. L1 excuses it.
//!
//! # L1 ([`liveness`])
//! From every state reached, faults included, that needs no operator, *some* steps without a fault lead to "every member votes on its data and admits
//! clients". No fairness is assumed or shown: it says that there is no dead end, not how long it takes.
//!
//! # Mutants ([`mutant`], [`mutants`])
//! Each known-bad variant bends what a real function is told or what is made of its answer; each must break the law that is named for it.

pub mod bend;
pub mod cluster;
pub mod explore;
pub mod fault;
pub mod grantor;
pub mod law;
pub mod liveness;
pub mod mutant;
pub mod mutants;
pub mod node;
pub mod normal;
pub mod plans;
pub mod plea;
pub mod raft;
pub mod view;
pub mod world;

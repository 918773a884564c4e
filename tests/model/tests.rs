//! What every run of the tests explores: see the crate's own documentation for what that shows.
#![expect(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    reason = "a test target of its own; --nocapture shows the table"
)]

use std::time::Duration;

use kiln_model::cluster::{Begin, Cluster};
use kiln_model::explore::{Bounds, explore};
use kiln_model::liveness::mended;
use kiln_model::mutant::Mutant;
use kiln_model::{mutants, plans};

/// Never met by a configuration that ends by itself.
const LONG: Duration = Duration::from_secs(3600);

/// Explores the configurations whose names begin so to their end; no law may break, and L1 must hold where it is asked for.
fn holds(prefix: &str) {
    let chosen: Vec<_> = plans::quick().into_iter().filter(|plan| plan.name.starts_with(prefix)).collect();
    assert!(!chosen.is_empty(), "no configuration is called `{prefix}`");
    for plan in chosen {
        let found = explore(plan.cluster, Bounds { states: plan.most, time: LONG, threads: 2 });
        println!("{:<68} {}", plan.name, found.line());
        assert!(found.broken.is_empty(), "{}: {:#?}", plan.name, found.broken);
        assert!(found.exhausted, "{}: {}", plan.name, found.line());
        assert!(found.reached.contains(&"every member votes and admits"), "{}: {:?}", plan.name, found.reached);
        // Else nothing would be shown about replacement.
        let replaced = found.reached.contains(&"S2 a wiped voter is replaced");
        assert!(replaced || plan.cluster.budget.wipes == 0, "{}", plan.name);
        if plan.lives {
            let mended = mended(plan.cluster, plan.most).expect("a graph that small");
            assert_eq!(mended.stuck_states, 0, "{}: {:#?}", plan.name, mended.stuck);
        }
    }
}

/// D1: three blanks, any boot order and jitter, any message lost: one lineage, activated.
#[test]
fn d01_three_blanks_form_one_cluster_in_any_order() {
    holds("d01");
}

/// C10, D2: a crash at every persist point; re-entry converges on the same lineage.
#[test]
fn c10_d02_a_crash_at_any_point_of_forming_is_mended() {
    holds("c10");
}

/// D3: the founder, or anybody, wiped before activation: wait, or go on; nothing is lost.
#[test]
fn d03_a_wipe_before_activation_loses_nothing() {
    holds("d03");
}

/// D5: the founder cloned: at most one lineage activates.
#[test]
fn d05_of_two_cloned_founders_at_most_one_activates() {
    holds("d05");
}

/// C13, C14, E4, E11: two of three wiped, the third up or down, grantors that crash: never a second lineage, never a removal without quorum.
#[test]
fn c13_c14_e04_e11_two_of_three_wiped_wait() {
    holds("c13");
}

/// C15: all wiped, the window open or closed: a new lineage, or waiting.
#[test]
fn c15_all_wiped_form_anew_only_while_the_window_is_open() {
    holds("c15");
}

/// E8: the member of the same name is alive: refused, not removed.
#[test]
fn e08_a_living_member_of_the_same_name_is_not_removed() {
    holds("e08");
}

/// C3: a mount that failed is no blank disk.
#[test]
fn c03_an_empty_mount_point_is_not_blank() {
    holds("c03");
}

/// C8: a member whose log is gone halts.
#[test]
fn c08_a_member_without_its_log_halts() {
    holds("c08");
}

/// A8: SRV that lists fewer changes nothing.
#[test]
fn a08_srv_does_not_change_who_counts() {
    holds("a08");
}

/// E16: nobody's place is asked for but by itself.
#[test]
fn e16_a_call_in_anothers_name_removes_nobody() {
    holds("e16");
}

/// H4, H5: a peer that says it is blank though it is not, or runs a lineage nobody else knows.
#[test]
fn h04_h05_one_liar_makes_no_second_cluster() {
    holds("h04");
}

/// C17: a volume put back to a snapshot is halted as soon as a peer that remembers answers.
#[test]
fn c17_a_rolled_back_volume_halts_when_it_is_told() {
    holds("c17");
}

#[test]
fn generations_never_fall() {
    holds("I11");
}

#[test]
fn five_members_keep_the_laws_too() {
    holds("five");
}

/// Every case of this mutant breaks the law it is there for.
fn caught(mutant: Mutant) {
    let cases: Vec<_> = mutants::all().into_iter().filter(|case| case.mutant == mutant).collect();
    assert!(!cases.is_empty(), "{mutant:?} has no configuration");
    for case in cases {
        let found = explore(case.cluster, Bounds { states: 20_000_000, time: LONG, threads: 1 });
        println!("{mutant:?}: {}", found.line());
        let law = case.law.name();
        assert!(
            found.broken.iter().any(|(name, _, _)| *name == law),
            "{mutant:?} does not break {law}: {}",
            found.line()
        );
    }
}

macro_rules! mutants {
    ($($test:ident: $mutant:ident;)*) => {
        $(#[test]
        fn $test() {
            caught(Mutant::$mutant);
        })*

        #[test]
        fn every_mutant_has_a_test() {
            let tested = [$(Mutant::$mutant),*];
            for case in mutants::all() {
                assert!(tested.contains(&case.mutant), "{:?}", case.mutant);
            }
        }
    };
}

mutants! {
    mutant_static_token_is_caught: StaticToken;
    mutant_id_reused_by_an_amnesiac_is_caught: IdReused;
    mutant_symmetric_bootstrap_is_caught: Symmetric;
    mutant_activation_by_majority_is_caught: ActivationByMajority;
    mutant_no_gate_is_caught: NoGate;
    mutant_srv_as_denominator_is_caught: SrvDenominator;
    mutant_unmounted_disk_as_blank_is_caught: UnmountedIsBlank;
    mutant_silence_as_blank_is_caught: SilenceIsBlank;
    mutant_silence_as_blank_without_gate_is_caught: SilenceIsBlankNoGate;
    mutant_data_holder_ignored_is_caught: DataHolderIgnored;
    mutant_halted_as_blank_is_caught: HaltedIsBlank;
    mutant_form_after_the_window_is_caught: FormAfterWindow;
    mutant_removal_without_liveness_check_is_caught: NoLiveness;
    mutant_same_volume_replaced_is_caught: SameVolumeReplaced;
    mutant_two_holes_are_caught: TwoHoles;
    mutant_removal_under_silence_is_caught: RemovalUnderSilence;
    mutant_grant_to_a_foreign_name_is_caught: ForeignName;
    mutant_promotion_before_start_is_caught: PromotedUnstarted;
    mutant_dropped_id_reused_is_caught: DroppedIdReused;
    mutant_attempt_not_recorded_is_caught: AttemptNotRecorded;
    mutant_no_precheck_is_caught: NoPrecheck;
    mutant_evicted_starts_anew_is_caught: EvictedStartsAnew;
    mutant_lost_log_as_blank_is_caught: LostLogIsBlank;
    mutant_lost_log_restarts_is_caught: LostLogRestarts;
    mutant_restart_that_asks_peers_is_caught: RestartAsksPeers;
    mutant_rollback_ignored_is_caught: RollbackIgnored;
    mutant_one_liar_believed_is_caught: OneLiarBelieved;
    mutant_generation_ignored_is_caught: GenerationIgnored;
}

/// Anyone forms: the gate keeps it safe, but lineages nobody can leave are left behind. L1 sees that.
#[test]
fn mutant_anyone_forms_is_caught_by_liveness() {
    let cluster = Cluster { mutant: Some(Mutant::AnyoneForms), begin: Begin::Blank, ..Cluster::default() };
    let found = mended(cluster, 5_000_000).expect("a graph that small");
    assert!(found.stuck_states > 0, "{} states", found.states);
    let honest = mended(Cluster::default(), 5_000_000).expect("a graph that small");
    assert_eq!(honest.stuck_states, 0);
}

/// What kiln does not promise stays what the documents say it is.
#[test]
fn the_limits_are_where_the_documents_put_them() {
    for (plan, law) in plans::limits() {
        let found = explore(plan.cluster, Bounds { states: plan.most, time: LONG, threads: 1 });
        assert!(found.broken.iter().any(|(name, _, _)| *name == law.name()), "{}: {}", plan.name, found.line());
    }
}

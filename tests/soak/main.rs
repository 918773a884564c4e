//! Faults at random, for as long as one likes: `make soak MINUTES=n SEED=s STEPS=n`. Without being told it takes two minutes of one
//! seed, as a test among the others.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::print_stdout, reason = "a run is followed while it lasts")]
#![expect(clippy::disallowed_methods, reason = "an edge: told by the environment how long, and paces its own faults")]

mod hands;
mod schedule;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kiln_tests::program::workspace;

use crate::hands::Hands;
use crate::schedule::{Schedule, Step};

/// How long, which, and where it is told.
#[derive(Debug)]
struct Settings {
    limit: Duration,
    steps: u64,
    seed: u64,
}

impl Settings {
    fn read() -> Self {
        let number = |name, default| {
            std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: `{text}`")))
        };
        // Nothing said of the time means two minutes; steps without minutes mean as long as they take.
        let steps = number("SOAK_STEPS", 0);
        let minutes = number("SOAK_MINUTES", if steps == 0 { 2 } else { 100_000 });
        Self {
            limit: Duration::from_secs(60 * minutes),
            steps: if steps == 0 { u64::MAX } else { steps },
            seed: number("SOAK_SEED", 20_261_122),
        }
    }
}

/// The story of a run, in a file and on standard output.
#[derive(Debug)]
pub(crate) struct Log {
    started: Instant,
    file: fs_err::File,
    path: PathBuf,
}

impl Log {
    fn create(seed: u64) -> Self {
        let path = workspace().join(format!("target/soak/{seed}.log"));
        fs_err::create_dir_all(path.parent().expect("it has a directory")).expect("making target/soak");
        let file = fs_err::File::create(&path).expect("creating the log of a soak");
        Self { started: Instant::now(), file, path }
    }

    /// One line with the time since the beginning; `aloud` on standard output too.
    pub(crate) fn tell(&mut self, aloud: bool, text: &str) {
        let line = format!("{:>9.3} {text}", self.started.elapsed().as_secs_f64());
        writeln!(self.file, "{line}").expect("writing the log of a soak");
        if aloud {
            println!("{line}");
        }
    }
}

/// Faults of one seed, with clients at work all the time and everything weighed at each checkpoint.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn no_fault_makes_a_second_cluster_or_loses_a_write() {
    let settings = Settings::read();
    let mut log = Log::create(settings.seed);
    log.tell(true, &format!("seed {}; told in {}", settings.seed, log.path.display()));
    let mut hands = Hands::new();
    let mut schedule = Schedule::new(settings.seed);
    let (mut steps, mut checkpoints, mut clusters) = (0_u64, 0_u64, 1_u64);
    while steps < settings.steps && log.started.elapsed() < settings.limit {
        let step = schedule.next().expect("a schedule has no end");
        let pause = Duration::from_millis(schedule.pause());
        steps += 1;
        log.tell(false, &format!("step {steps} {step:?}"));
        let done = catch_unwind(AssertUnwindSafe(|| hands.carry_out(&step)));
        match done {
            Ok(Ok(None)) => std::thread::sleep(pause),
            Ok(Ok(Some(story))) => {
                checkpoints += 1;
                clusters += u64::from(matches!(step, Step::End(_)));
                log.tell(true, &format!("step {steps} held: {story}"));
            }
            Ok(Err(why)) => fail(&mut log, &hands, settings.seed, steps, &why),
            Err(panic) => {
                let words = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into());
                fail(&mut log, &hands, settings.seed, steps, &words);
            }
        }
    }
    log.tell(false, "the end");
    match hands.finish() {
        Ok(story) => log.tell(true, &format!("at the end held: {story}")),
        Err(why) => fail(&mut log, &hands, settings.seed, steps, &why),
    }
    let minutes = log.started.elapsed().as_secs() / 60;
    let acknowledged = hands.acknowledged;
    log.tell(
        true,
        &format!(
            "seed {}: {steps} steps in {minutes} minutes, {} checkpoints, {clusters} clusters, {acknowledged} writes acknowledged, 0 violations",
            settings.seed,
            checkpoints + 1,
        ),
    );
}

/// Says why, and keeps what the nodes have.
fn fail(log: &mut Log, hands: &Hands, seed: u64, steps: u64, why: &str) -> ! {
    let evidence = workspace().join(format!("target/soak/{seed}-evidence"));
    hands.keep(&evidence);
    log.tell(true, &format!("VIOLATION at step {steps}: {why}"));
    panic!("seed {seed}, step {steps}; the nodes' directories are in {}\n{why}", evidence.display());
}

//! Telling how far a plan is: bars on a terminal, plain lines in a log.
#![expect(clippy::disallowed_methods, reason = "an edge: measures how long a step takes, for the line that tells it")]

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::host::Watch;
use crate::machine_plan::Step;

/// Is told of each step.
pub trait Tell: Sync {
    /// A step begins.
    fn begin(&self, step: &Step) -> Box<dyn Told>;
}

/// Is told of one step.
pub trait Told: Sync {
    /// Takes its progress.
    fn watch(&self) -> &dyn Watch;
    /// It is done; what came of it, where there is more to say.
    fn done(&self, outcome: &str);
}

/// For people: a bar for each step that is under way, and a line for each that is done.
#[derive(Debug, Default)]
pub struct Bars(Option<MultiProgress>);

#[derive(Debug)]
struct Bar {
    line: String,
    bar: Option<(MultiProgress, ProgressBar)>,
    began: Instant,
}

impl Bars {
    /// Bars if standard error is a terminal, plain lines if not.
    pub fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(MultiProgress::new))
    }
}

impl Tell for Bars {
    fn begin(&self, step: &Step) -> Box<dyn Told> {
        let line = step.to_string();
        let bar = self.0.as_ref().map(|all| {
            let bar = all.add(ProgressBar::new_spinner().with_message(line.clone()));
            bar.enable_steady_tick(Duration::from_millis(120));
            (all.clone(), bar)
        });
        Box::new(Bar { line, bar, began: Instant::now() })
    }
}

impl Told for Bar {
    fn watch(&self) -> &dyn Watch {
        self
    }

    fn done(&self, outcome: &str) {
        let outcome = if outcome.is_empty() { String::new() } else { format!(": {outcome}") };
        let line = format!("{}{outcome} ({:.1} s)", self.line, self.began.elapsed().as_secs_f64());
        match &self.bar {
            // A terminal that is gone is no reason to stop.
            Some((all, _)) => drop(all.println(line)),
            None => log::info!("{line}"),
        }
    }
}

impl Watch for Bar {
    fn progress(&self, done: u64, total: u64) {
        let Some((_, bar)) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {percent}%");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((_, bar)) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Tell for Silent {
    fn begin(&self, _: &Step) -> Box<dyn Told> {
        Box::new(Self)
    }
}

impl Told for Silent {
    fn watch(&self) -> &dyn Watch {
        self
    }
    fn done(&self, _: &str) {}
}

impl Watch for Silent {
    fn progress(&self, _: u64, _: u64) {}
}

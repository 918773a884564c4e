//! When the node's certificate is looked at, by which clock it is minted, and what of both a person should know.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the seed's certificates")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::charter::Charter;
use crate::floor::Floor;
use crate::leaf::{self, LeafRequest};
use crate::leaf_file::{LeafFiles, ensure_leaf};
use crate::name::Fqdn;
use crate::notice::Noticed;
use crate::observation::{Observation, StateView};
use crate::paths::Paths;
use crate::state::State;
use crate::wait::utc;
use crate::{clock, journal, seed, state_file};

/// How often the leaf is looked at while both clocks agree and nothing is in doubt.
const UPKEEP: Duration = Duration::from_secs(300);
/// A difference between the two clocks that is no drift: somebody has set the one on the wall.
const STEP_SECS: i64 = 30;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(crate) struct LeafKeeper {
    checked: Option<(Instant, i64)>,
    doubted: Option<Instant>,
    told: Noticed,
}

impl LeafKeeper {
    /// Looks at the leaf if it is time to, and replaces it if it must be. Nothing when there was nothing to do.
    ///
    /// # Errors
    /// When no leaf serves and none can be minted; it is tried again in the next round.
    pub(crate) fn look(
        &mut self,
        paths: &Paths,
        charter: &Charter,
        own: &Fqdn,
        seen: &mut Observation,
    ) -> Result<Option<LeafFiles>> {
        let (now, wall) = (clock::monotonic(), clock::now());
        if !self.due(now, wall) {
            return Ok(None);
        }
        let first = self.checked.is_none();
        self.checked = None;
        let member = charter.member(own).context("the charter does not name this node")?;
        let issuer_cert = fs_err::read_to_string(paths.seed_dir().join(seed::ISSUER_CERT))?;
        let life = leaf::life(&issuer_cert).map_err(|e| anyhow!("reading the issuer's certificate: {e}"))?;
        let floor = Floor {
            certain: charter.not_before.max(seen.image.source_date_epoch).max(life.0),
            seen: remembered(seen).map_or(0, |state| state.max_seen_time),
        };
        let synchronized = clock::synchronized(paths);
        self.doubted = floor.in_doubt(wall).then(|| self.doubted.unwrap_or(now));
        let doubted_for = self.doubted.map_or(Duration::ZERO, |since| now.duration_since(since));
        mend(paths, &floor, wall, synchronized, seen)?;
        let request = LeafRequest {
            fqdn: own,
            addresses: &member.addresses,
            issuer_cert: &issuer_cert,
            now: wall,
            floor: floor.binding(synchronized, doubted_for),
        };
        let files = ensure_leaf(paths, charter, &request);
        let doubt = files.as_ref().ok().and_then(|files| files.doubt.as_ref());
        let mut notices: Vec<String> = leaf::issuer_notice(life, wall).into_iter().collect();
        notices.extend(floor.leap(wall).filter(|_| first));
        notices.extend(doubt.map(|doubt| format!("this node's certificate is left as it is: {doubt}")));
        for text in self.told.fresh(notices) {
            journal::tell(&journal::NOTICE, &text, &[]);
        }
        let files = files?;
        self.checked = Some((now, wall));
        if files.minted {
            journal::tell(&journal::LEAF, &format!("minted a certificate for {own}"), &[]);
        }
        Ok(Some(files))
    }

    fn due(&self, now: Instant, wall: i64) -> bool {
        let (None, Some((checked, then))) = (self.doubted, self.checked) else { return true };
        let passed = now.duration_since(checked);
        let stepped = wall - then - i64::try_from(passed.as_secs()).unwrap_or(0);
        if stepped.abs() < STEP_SECS {
            return passed >= UPKEEP;
        }
        let text = format!("the clock was set by {stepped} s and says {} now", utc(wall));
        journal::tell(&journal::NOTICE, &text, &[]);
        true
    }
}

/// Takes back what the volume has seen of a clock that was ahead.
fn mend(paths: &Paths, floor: &Floor, wall: i64, synchronized: bool, seen: &mut Observation) -> Result<()> {
    let (Some(mended), StateView::Read(state)) = (floor.mended(wall, synchronized), &mut seen.state) else {
        return Ok(());
    };
    let next = State { max_seen_time: mended, ..state.as_ref().clone() };
    state_file::write(paths, &next)?;
    **state = next;
    let text = format!(
        "this volume has seen {}, but the clock is synchronized and says {}: it was ahead then, and is believed now",
        utc(floor.seen),
        utc(wall)
    );
    journal::tell(&journal::NOTICE, &text, &[]);
    Ok(())
}

fn remembered(seen: &Observation) -> Option<&State> {
    match &seen.state {
        StateView::Read(state) => Some(state),
        StateView::Absent | StateView::Unreadable(_) => None,
    }
}

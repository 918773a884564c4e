//! Reading and writing [`State`] on the data volume.
#![expect(clippy::disallowed_methods, reason = "an edge: the state file is read here")]

use std::io;

use anyhow::Context as _;

use crate::durable;
use crate::fault::{Point, cut};
use crate::observation::StateView;
use crate::paths::Paths;
use crate::state::State;

/// What the state file says. Never an error: a file that cannot be read is a fact that leads to a halt.
pub fn read(paths: &Paths) -> StateView {
    let bytes = match fs_err::read(paths.state_json()) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return StateView::Absent,
        Err(error) => return StateView::Unreadable(error.to_string()),
    };
    match serde_json::from_slice(&bytes) {
        Ok(state) => StateView::Read(Box::new(state)),
        Err(error) => StateView::Unreadable(format!("reading `{}`: {error}", paths.state_json().display())),
    }
}

/// Persists `state`. When this returns, a power cut does not take it back.
///
/// # Errors
/// When the volume cannot be written; the earlier state is then still there, and nothing that needs the new one may be done.
pub fn write(paths: &Paths, state: &State) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec_pretty(state).context("writing the state as JSON")?;
    durable::replace_noting(&paths.state_json(), &bytes, 0o600, || cut(Point::StateWritten))
        .context("writing the state file")?;
    cut(Point::StateRenamed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Id128;
    use crate::name::Fqdn;
    use crate::volume::VolumeLabel;

    #[test]
    fn reads_back_what_it_wrote_and_tells_absent_from_unreadable() {
        let scratch = tempfile::tempdir().unwrap();
        let paths = Paths::new(scratch.path());
        fs_err::create_dir_all(paths.state_dir()).unwrap();
        assert_eq!(read(&paths), StateView::Absent);
        let state = State::blank(&VolumeLabel {
            schema: 1,
            env: "lab".into(),
            cluster: Id128([1; 16]),
            generation: 1,
            fqdn: Fqdn::parse("etcd1.lab.example").unwrap(),
            instance: Id128([2; 16]),
        });
        write(&paths, &state).unwrap();
        assert_eq!(read(&paths), StateView::Read(Box::new(state)));
        fs_err::write(paths.state_json(), "{").unwrap();
        assert!(matches!(read(&paths), StateView::Unreadable(why) if why.contains("state.json")));
    }
}

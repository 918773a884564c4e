//! Which images are deployed: those that a trusted key signed, unaltered, and no older than the current generation.

use anyhow::Result;
use camino::Utf8Path;

use super::Fleet;
use crate::generations::{Generation, Generations};
use crate::lab::admission::{self, Lenience};
use crate::trust::Depth;

impl Fleet {
    /// Lets a generation be deployed, or not. `signing` is the directory of the keys that images are signed with. One that was deployed before was
    /// read whole then, and a host verifies what it gets: of it only the small files are looked at.
    ///
    /// # Errors
    /// A [`Refusal`](crate::exit::Refusal) when its image is unsigned, a stranger's, not what was signed, or older than the current one's.
    pub fn admit_image(
        &self,
        next: &Generation,
        generations: &Generations,
        signing: &Utf8Path,
        lenience: Lenience,
    ) -> Result<()> {
        let known = generations.all.iter().any(|g| g.number == next.number);
        let depth = if known { Depth::Small } else { Depth::Whole };
        let ran = admission::admit(&self.store, signing, &next.key, depth, lenience)?;
        let Some(current) = generations.current().filter(|current| current.key != next.key) else { return Ok(()) };
        let last = admission::admit(
            &self.store,
            signing,
            &current.key,
            Depth::Small,
            Lenience { unsigned: true, older: true },
        )?;
        let what = format!("generation {} of `{}`", current.number, self.profile.name);
        Ok(admission::no_older(&what, &self.profile.name, Some(&last), &ran, lenience)?)
    }
}

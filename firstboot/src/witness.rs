//! What an agent remembers of the boots of others, to tell them: a volume that went back in time or runs twice is known by it.

use std::sync::{Mutex, PoisonError};

use crate::message::Remembered;

/// How many volumes of one name are kept, the latest ones. A name gets another volume when its disk is wiped.
const VOLUMES: usize = 4;
/// Longest name of a boot, in bytes; the kernel's has 36. What is kept goes into every status, which has a limit.
const MAX_BOOT_ID: usize = 64;

/// The highest boot of each other volume that was heard of, since this agent's start.
#[derive(Debug, Default)]
pub(crate) struct Witness(Mutex<Vec<Remembered>>);

impl Witness {
    /// Keeps what a volume told of its boot. The first boot that told a count is kept: a second one with the same count is another copy
    /// of the volume, or its earlier self.
    pub(crate) fn note(&self, told: Remembered) {
        // A count of 0: not counted on its volume yet.
        if told.boot_counter == 0 || told.boot_id.len() > MAX_BOOT_ID {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|known| known.instance == told.instance && known.fqdn == told.fqdn) {
            Some(known) if known.boot_counter >= told.boot_counter => {}
            Some(known) => *known = told,
            None => {
                let of_name = |known: &Remembered| known.fqdn == told.fqdn;
                if all.iter().filter(|known| of_name(known)).count() == VOLUMES
                    && let Some(oldest) = all.iter().position(of_name)
                {
                    all.remove(oldest);
                }
                all.push(told);
            }
        }
    }

    /// All of it.
    pub(crate) fn all(&self) -> Vec<Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Id128;
    use crate::sample::fqdn;

    #[test]
    fn c17_keeps_the_highest_count_and_the_first_boot_that_told_it() {
        let told = |instance: u8, boot_counter: u64, boot: &str| Remembered {
            fqdn: fqdn(1),
            instance: Id128([instance; 16]),
            boot_counter,
            boot_id: boot.into(),
        };
        let witness = Witness::default();
        for boot in [
            told(1, 0, "uncounted"),
            told(1, 2, "b"),
            told(1, 2, "clone"),
            told(1, 1, "earlier"),
            told(2, 1, "new disk"),
        ] {
            witness.note(boot);
        }
        assert_eq!(witness.all(), [told(1, 2, "b"), told(2, 1, "new disk")]);
        witness.note(told(1, 3, "later"));
        assert_eq!(witness.all()[0], told(1, 3, "later"));

        for instance in 3..9 {
            witness.note(told(instance, 1, "a"));
        }
        witness.note(told(9, 1, &"long".repeat(100)));
        assert_eq!(witness.all(), [5, 6, 7, 8].map(|instance| told(instance, 1, "a")), "a name cannot fill the memory");
    }
}

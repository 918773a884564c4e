//! What many ask for at one time, looked up once for all of them.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::clock;
use crate::rest::rest;

/// The last look that anybody took.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    last: Mutex<Option<Look<T>>>,
    longest: Duration,
}

#[derive(Debug)]
struct Look<T> {
    began: Instant,
    ended: Instant,
    found: T,
}

impl<T: Clone> Shared<T> {
    /// Nobody has looked yet. Between two looks there is no longer rest than that: callers wait for it.
    pub(crate) fn resting(longest: Duration) -> Self {
        Self { last: Mutex::new(None), longest }
    }

    /// What a look finds that began after this call: the caller's own, or that of another who waited beside it. One look is under way at a
    /// time, and where looks take long there is a rest between two: however many ask, what is looked at has its own to do. A caller waits
    /// for two looks and a rest at most.
    pub(crate) async fn get(&self, look: impl Future<Output = T>) -> T {
        let asked = clock::monotonic();
        let mut last = self.last.lock().await;
        if let Some(look) = &*last {
            if look.began >= asked {
                return look.found.clone();
            }
            let due = look.ended + rest(Duration::ZERO, look.ended.duration_since(look.began), self.longest);
            sleep(due.saturating_duration_since(clock::monotonic())).await;
        }
        let began = clock::monotonic();
        let found = look.await;
        *last = Some(Look { began, ended: clock::monotonic(), found: found.clone() });
        found
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::sync::Notify;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    const LONGEST: Duration = Duration::from_millis(1500);

    /// Looks made, and the world that they look at.
    #[derive(Default)]
    struct World {
        looks: Cell<u32>,
        now: Cell<u32>,
        let_go: Notify,
    }

    /// A look tells the world as it was when it began.
    async fn ask(shared: &Shared<u32>, world: &World) -> u32 {
        let look = async {
            world.looks.set(world.looks.get() + 1);
            let seen = world.now.get();
            world.let_go.notified().await;
            seen
        };
        shared.get(look).await
    }

    #[tokio::test]
    async fn who_asks_during_a_look_shares_the_next_and_hears_of_nothing_older_than_its_question() {
        let (shared, world) = (Rc::new(Shared::resting(LONGEST)), Rc::new(World::default()));
        LocalSet::new()
            .run_until(async {
                let ask = || {
                    let (shared, world) = (shared.clone(), world.clone());
                    spawn_local(async move { ask(&shared, &world).await })
                };
                let first = ask();
                yield_now().await;
                world.now.set(1);
                let others: Vec<_> = (0..5).map(|_| ask()).collect();
                yield_now().await;
                assert_eq!(world.looks.get(), 1, "one look at a time");
                world.let_go.notify_one();
                assert_eq!(first.await.unwrap(), 0);
                world.let_go.notify_one();
                for other in others {
                    assert_eq!(other.await.unwrap(), 1, "the first look began before it asked");
                }
                assert_eq!(world.looks.get(), 2, "one for all that waited");
                world.let_go.notify_one();
                assert_eq!((ask().await.unwrap(), world.looks.get()), (1, 3), "what is known already is asked anew");
            })
            .await;
    }

    #[tokio::test]
    async fn a_look_that_is_given_up_leaves_nothing_behind() {
        let (shared, world) = (Rc::new(Shared::resting(LONGEST)), Rc::new(World::default()));
        LocalSet::new()
            .run_until(async {
                let task = {
                    let (shared, world) = (shared.clone(), world.clone());
                    spawn_local(async move { ask(&shared, &world).await })
                };
                yield_now().await;
                task.abort();
                assert!(task.await.is_err());
                world.now.set(7);
                world.let_go.notify_one();
                assert_eq!((ask(&shared, &world).await, world.looks.get()), (7, 2));
            })
            .await;
    }
}

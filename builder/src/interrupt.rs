//! What Ctrl-C does: end the programs that run for us, then ourselves.
//!
//! A terminal sends the signal to the whole group, `kill -INT` to one process only: either way nothing that `kiln` started goes on
//! writing into the store. What is left in `tmp/` is removed by the next run.

use std::time::Duration;

use crate::tool;

/// How long programs are given to clean up: mmdebstrap removes its half-made tree, which takes a second or two.
const GRACE: Duration = Duration::from_secs(10);

/// Listens for SIGINT and SIGTERM on a thread of its own. To be called once, by `main`, before anything is started.
///
/// # Errors
/// When the system gives no thread or no signal handler.
pub fn listen() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::Builder::new().name("interrupt".into()).spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => 130, _ = terminate.recv() => 143 }
        });
        tool::terminate_all();
        runtime.block_on(async {
            // There is no event to wait for across all of them; 20 ms is below what a person notices.
            let ended = async {
                while tool::any_running() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            // Those that outlast the grace are left to the system; their directories are removed by the next run.
            let _ = tokio::time::timeout(GRACE, ended).await;
        });
        eprintln!("kiln: interrupted; the next run goes on from what is finished");
        #[expect(clippy::exit, reason = "the main thread is busy; this is the only way to end on a signal")]
        std::process::exit(code)
    })?;
    Ok(())
}

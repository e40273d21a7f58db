//! The statuses that gRPC health gives, looked at again and again.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// A status is no older than this.
const EVERY: Duration = Duration::from_millis(250);

/// A service, and whether it serves now.
pub type Status = (&'static str, bool);

/// What is asked for the statuses.
#[derive(Clone)]
pub struct Statuses(Arc<dyn Fn() -> Vec<Status> + Send + Sync>);

impl Statuses {
    /// Those that `look` finds; it must not block.
    pub fn new(look: impl Fn() -> Vec<Status> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }
}

impl fmt::Debug for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Statuses").field(&(self.0)()).finish()
    }
}

/// Has the reporter say what is so now; gives that to [`follow`]. To be done before anybody can ask.
pub async fn tell(reporter: &HealthReporter, statuses: &Statuses) -> Vec<Status> {
    let found = (statuses.0)();
    say(reporter, &found).await;
    found
}

/// Has the reporter say what is so, for ever, when it is no longer what has been `told`.
pub async fn follow(reporter: &HealthReporter, statuses: &Statuses, mut told: Vec<Status>) -> Infallible {
    let mut clock = tokio::time::interval(EVERY);
    loop {
        clock.tick().await;
        let found = (statuses.0)();
        let news: Vec<Status> = found.iter().filter(|status| !told.contains(*status)).copied().collect();
        say(reporter, &news).await;
        told = found;
    }
}

async fn say(reporter: &HealthReporter, statuses: &[Status]) {
    for (service, serves) in statuses {
        let status = if *serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(service, status).await;
    }
}

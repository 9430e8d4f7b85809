//! A member that has its log, and no applied state: it waits until the others can do without this life of it.
//!
//! Its word counts, so it takes part in consensus as before, and says to all others that its state is lost; who leads raises
//! the alarm that ends its life once a quorum lives without it (`quorate_core::replica`, fence.rs). It applies nothing, that
//! alarm included, so it asks the others whether they have. It may take long: until a member is back that is down, or has
//! caught up that was rebuilt.

use std::sync::Arc;
use std::time::Duration;

use quorate_api::quorate::peer::v1 as pb;
use quorate_core::rows::Rows;
use tracing::{info, warn};

use super::{Directory, join};
use crate::member::Member;
use crate::url::Url;

/// Between two rounds of questions.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// So many rounds go by before it says again what it waits for.
const QUIET_ROUNDS: u32 = 30;

/// Has `member`, whose life this is, end it as soon as one of the others says that it is over; or returns once a snapshot has
/// given it a state. They are looked for where `directory` finds them, and at `told`.
pub async fn wait<S>(member: Member<S>, directory: Arc<Directory>, told: Vec<Url>, life: pb::Life)
where
    S: Rows + Send + Sync + 'static,
{
    for round in 0_u32.. {
        let mut urls = [directory.others(), told.clone()].concat();
        urls.sort();
        urls.dedup();
        let (mut answers, mut silence) = (0, None);
        for url in urls {
            match join::is_over(&url, &life, directory.connector()).await {
                Ok(true) => {
                    warn!(url = url.to_string(), "the others have ended this life of the member");
                    return member.end();
                }
                Ok(false) => answers += 1,
                Err(error) => silence = Some(format!("{url}: {error}")),
            }
        }
        if round.is_multiple_of(QUIET_ROUNDS) {
            info!(
                answers,
                silence,
                "this member has its log, but no applied state: it serves nobody until the others can do without it, and \
                 an alarm has ended this life of it"
            );
        }
        tokio::time::sleep(ASK_INTERVAL).await;
        if !member.status().suspect {
            return;
        }
    }
}

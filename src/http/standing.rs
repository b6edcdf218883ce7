//! What a socket's client is in its session, and may do now. Its credential may end before it leaves: then it may only
//! watch, for a grace, until it has sent a fresh one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::entry::Household;
use super::error::ApiError;
use crate::app::App;
use crate::app::entry::now_s;
use crate::app::tickets::Shown;
use crate::auth::{Principal, Role};
use crate::hub::Session;
use crate::room::message::Fresh;

pub struct Standing {
    held: Mutex<(Arc<Principal>, Role)>,
    from: Household,
}

impl Standing {
    pub fn new(principal: Arc<Principal>, role: Role, from: Household) -> Standing {
        Standing { held: Mutex::new((principal, role)), from }
    }

    pub fn principal(&self) -> Arc<Principal> {
        self.held().0.clone()
    }

    /// Where it came from.
    pub fn address(&self) -> &str {
        &self.from.0
    }

    pub fn role(&self) -> Role {
        self.held().1
    }

    /// Whether it may do what takes this role.
    pub fn may(&self, app: &App, least: Role) -> Result<(), ApiError> {
        let unauthorized = |message| Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message));
        let principal = self.principal();
        if !app.settings.load().access.knows(&principal) {
            return unauthorized("this credential is no longer valid here");
        }
        if principal.expired(now_s()) {
            return unauthorized("the credential has expired: send a fresh one with auth");
        }
        match self.role() >= least {
            true => Ok(()),
            false => Err(ApiError::not_allowed("your role in this session does not allow it")),
        }
    }

    /// Takes a fresh credential of the same user. With a bad one everything stays as it is.
    pub async fn renew(&self, app: &App, session: &Session, fresh: &Fresh) -> Result<(), ApiError> {
        let principal = match fresh {
            Fresh::Token(token) => app.admit(Some(token), self.address()).await?,
            Fresh::Ticket(ticket) => {
                app.admit_ticket(ticket, self.address(), Shown::Nothing).await?.principal
            }
        };
        let before = self.principal();
        if (&principal.tenant, &principal.user) != (&before.tenant, &before.user) {
            return Err(ApiError::not_allowed("this credential is another user's"));
        }
        let role = principal.role_in(&session.name, &session.owner);
        let role = role.ok_or_else(|| ApiError::not_found("this credential does not open this session"))?;
        *self.held() = (Arc::new(principal), role);
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, (Arc<Principal>, Role)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

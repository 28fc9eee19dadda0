//! The server of metrics of `run`. It listens before anything is changed, so that an address that
//! is taken ends the command then, and answers once the policy is in force. It has a thread of its
//! own, so that its clients cannot delay `run`.

use std::sync::Arc;

use serde_json::json;

use super::change::Change;
use super::session::Session;
use crate::cli::failure::Failure;
use crate::cli::metrics::server::{Address, Server};

/// Whether metrics can be served.
pub(super) enum Metrics {
    NotAskedFor,
    Listening(Server),
    /// Nothing listens at this address, and why.
    Failed(Address, Failure),
}

impl Metrics {
    /// Listens at `address`. With `waits` a failure is told later: a service has to enforce, also
    /// at a boot where it cannot listen.
    ///
    /// # Errors
    /// Without `waits`, if it cannot listen.
    pub(super) fn listen(address: Option<&Address>, waits: bool) -> Result<Metrics, Failure> {
        let Some(address) = address else {
            return Ok(Metrics::NotAskedFor);
        };
        match Server::bind(address, waits) {
            Ok(server) => Ok(Metrics::Listening(server)),
            Err(error) if waits => {
                let failure = address.failed(error).into();
                Ok(Metrics::Failed(address.clone(), failure))
            }
            Err(error) => Err(address.failed(error).into()),
        }
    }
}

impl Session<'_> {
    /// Serves metrics of these interfaces, or says why it does not while the policy is enforced.
    pub(super) fn serve(&mut self, metrics: &mut Metrics, names: &[String]) -> Result<(), Failure> {
        match metrics {
            Metrics::NotAskedFor => {}
            Metrics::Listening(server) => {
                let served = self.expected.served(names);
                server
                    .serve(self.context, served, Arc::clone(&self.read))
                    .map_err(|source| Failure::Io {
                        what: "starting to serve metrics",
                        source,
                    })?;
                let address = server.address.to_string();
                let line = format!("metrics: {address}");
                let details = json!({"address": address, "interfaces": served});
                self.log.event(Change::Metrics, &line, details);
            }
            Metrics::Failed(address, failure) => {
                let details = json!({"address": address.to_string()});
                let line = "metrics are not served:";
                self.log.trouble(Change::Metrics, line, details, failure);
            }
        }
        Ok(())
    }
}

//! An auth node inside a program of one's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::web::ServiceConfig;
use prometheus_client::registry::Registry;
use standin_stage::CallError;

use super::running::Running;
use crate::api;
use crate::config::{ConfigError, NodeConfig};
use crate::node::{self, AuthHandle, NodeError};

/// What an auth node is started from.
#[derive(Debug, Default)]
pub struct AuthBuilder {
    config: Option<NodeConfig>,
    config_file: Option<PathBuf>,
}

impl AuthBuilder {
    /// The node's configuration, from a file; the environment goes on top.
    #[must_use]
    pub fn config_file(self, path: impl AsRef<Path>) -> Self {
        Self { config_file: Some(path.as_ref().to_owned()), ..self }
    }

    /// The node's configuration, in the place of a file.
    #[must_use]
    pub fn config(self, config: NodeConfig) -> Self {
        Self { config: Some(config), ..self }
    }

    /// Starts the auth node.
    pub async fn start(self) -> Result<AuthNode, NodeError> {
        let config = match (self.config, self.config_file) {
            (Some(config), _) => config,
            (None, Some(path)) => NodeConfig::read(&path)?,
            (None, None) => return Err(ConfigError::Missing.into()),
        };
        let start = move || {
            let node = node::AuthNode::start(&config)?;
            Ok((node.handle().clone(), node))
        };
        let (handle, running) = Running::start(start).await?;
        Ok(AuthNode(Arc::new((handle, running))))
    }
}

/// An auth node that runs in this process. Cheap to clone; when the last clone goes, it stops.
#[derive(Debug, Clone)]
pub struct AuthNode(Arc<(AuthHandle, Running)>);

impl AuthNode {
    /// Begins to describe one.
    pub fn builder() -> AuthBuilder {
        AuthBuilder::default()
    }

    /// What it offers.
    pub fn handle(&self) -> &AuthHandle {
        &self.0.0
    }

    /// Health, metrics and `/api/v1`.
    pub fn api(&self) -> impl FnOnce(&mut ServiceConfig) + Clone + use<> {
        let handle = self.0.0.clone();
        move |config: &mut ServiceConfig| api::auth_api_routes(handle)(config)
    }

    /// The admin console.
    pub fn console(&self) -> impl FnOnce(&mut ServiceConfig) + Clone + use<> {
        let console = self.0.0.console.clone();
        move |config: &mut ServiceConfig| console.page_routes()(config)
    }

    /// Adds its metrics, as they are now, to a registry of one's own.
    pub async fn metrics(&self, registry: &mut Registry) -> Result<(), CallError> {
        crate::metrics::register_auth(&self.0.0, registry).await
    }

    /// Waits until it has stopped; gives why if it had to.
    pub async fn stopped(&self) -> Option<String> {
        self.0.1.stopped().await
    }

    /// Stops it in order.
    pub async fn shutdown(&self) {
        self.0.0.console.stop();
        self.0.1.stop().await;
    }
}

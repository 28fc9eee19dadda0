//! A host of the lab: a network namespace, and a thread in it that runs tasks, so that their
//! sockets belong to the namespace. It is gone when the process ends in any way.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use sg_testbed::Namespace;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::error::LabError;

pub(super) struct Host {
    name: &'static str,
    namespace: Namespace,
    /// Runs tasks on the host's thread.
    tasks: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The result of a task that may still be running.
pub(super) struct Pending<T>(mpsc::Receiver<T>);

impl<T> Pending<T> {
    pub(super) fn wait(self) -> Result<T, LabError> {
        self.0.recv().map_err(|_| LabError::Lost)
    }
}

impl Host {
    pub(super) fn new(name: &'static str) -> Result<Host, LabError> {
        let failed = |e| LabError::setup(format!("making the network namespace `{name}`"), e);
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("lab {name}"))
            .spawn(move || match settle() {
                Ok((runtime, namespace)) => {
                    let _ = tell.send(Ok((runtime.handle().clone(), namespace)));
                    let _ = runtime.block_on(stopped);
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            })
            .map_err(failed)?;
        let (tasks, namespace) = told.recv().map_err(|_| LabError::Lost)?.map_err(failed)?;
        Ok(Host {
            name,
            namespace,
            tasks,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Starts a task on the host.
    pub(super) fn start<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (tell, told) = mpsc::channel();
        self.tasks.spawn(async move {
            let _ = tell.send(task.await);
        });
        Pending(told)
    }

    /// Runs blocking code in the host's namespace, on a new thread.
    pub(super) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.namespace.inside(act).map_err(|e| {
            let what = format!("entering the network namespace `{}`", self.name);
            LabError::setup(what, e)
        })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves the calling thread into a new network namespace.
fn settle() -> io::Result<(Runtime, Namespace)> {
    Namespace::enter_new()?;
    let namespace = Namespace::current()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok((runtime, namespace))
}

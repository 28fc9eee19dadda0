//! Network namespaces without names: each is held by a thread that lives in it and runs its tasks.
//! Nothing of them is left when the process ends, however it ends.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::error::LabError;

/// A network namespace of the lab.
pub(super) struct Namespace {
    name: &'static str,
    /// Runs tasks on the thread that lives in the namespace, so that their sockets belong to it.
    tasks: Handle,
    netns: File,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The result of a task, when it is there.
pub(super) struct Pending<T>(mpsc::Receiver<T>);

impl<T> Pending<T> {
    pub(super) fn wait(self) -> Result<T, LabError> {
        self.0.recv().map_err(|_| LabError::Lost)
    }
}

impl Namespace {
    pub(super) fn new(name: &'static str) -> Result<Namespace, LabError> {
        let failed = |e| LabError::setup(format!("making the network namespace `{name}`"), e);
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("lab {name}"))
            .spawn(move || match settle() {
                Ok((runtime, netns)) => {
                    let _ = tell.send(Ok((runtime.handle().clone(), netns)));
                    let _ = runtime.block_on(stopped);
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            })
            .map_err(failed)?;
        let (tasks, netns) = told.recv().map_err(|_| LabError::Lost)?.map_err(failed)?;
        Ok(Namespace {
            name,
            tasks,
            netns,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Starts a task in the namespace.
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

    /// Runs blocking code in the namespace, on a thread of its own.
    pub(super) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&self.netns, CloneFlags::CLONE_NEWNET)?;
                Ok(act())
            });
            match entered.join() {
                Ok(result) => result.map_err(|errno: nix::errno::Errno| {
                    let what = format!("entering the network namespace `{}`", self.name);
                    LabError::setup(what, errno.into())
                }),
                Err(_) => Err(LabError::Lost),
            }
        })
    }

    pub(super) fn netns(&self) -> &File {
        &self.netns
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves the calling thread into a new network namespace.
fn settle() -> io::Result<(Runtime, File)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let netns = File::open("/proc/thread-self/ns/net")?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok((runtime, netns))
}

/// Gives the calling thread, and those it starts from now on, mounts of their own, among them an
/// empty BPF file system whose pins nobody else can see.
pub(super) fn private_bpffs() -> Result<PathBuf, LabError> {
    let what = |errno: nix::errno::Errno| {
        LabError::setup("making mounts that only the lab sees", errno.into())
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(what)?;
    let nothing = None::<&str>;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, flags, nothing).map_err(what)?;

    // Any directory will do: what it holds is hidden from the lab's threads only. Not the usual
    // place, where a file system that ends with its mount namespace is refused.
    let candidates = ["/sys/fs", "/tmp"].map(PathBuf::from);
    let found = candidates.into_iter().find(|path| path.is_dir());
    let path = found.unwrap_or_else(|| PathBuf::from("/"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), &path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| LabError::setup("mounting the lab's own BPF file system", errno.into()))?;
    Ok(path)
}

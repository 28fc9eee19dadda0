//! Where the screen's numbers come from: a sampler for each attached interface. Interfaces may be
//! attached and detached while the screen is shown.

use sg_userspace::kernel::KernelError;
use sg_userspace::observe::pace::Pace;
use sg_userspace::observe::sampler::Sampler;

use super::reading::{InterfaceReading, Reading, Seen};
use super::watcher::Watcher;
use crate::cli::attachment::to_read;
use crate::cli::context::{Context, Ifaces};
use crate::cli::failure::Failure;

pub(super) struct Source<'a> {
    context: &'a Context,
    ifaces: &'a Ifaces,
    samplers: Vec<Sampler>,
    listing: Pace,
    watcher: Watcher,
    /// What keeps single interfaces from being read, by the last listing.
    troubles: Vec<String>,
}

impl<'a> Source<'a> {
    /// # Errors
    /// When nothing is attached, or none of it can be read.
    pub(super) fn open(context: &'a Context, ifaces: &'a Ifaces) -> Result<Source<'a>, Failure> {
        let mut source = Source {
            context,
            ifaces,
            samplers: Vec::new(),
            listing: Pace::default(),
            watcher: Watcher::default(),
            troubles: Vec::new(),
        };
        let first = source.list()?.into_iter().next();
        match first.filter(|_| source.samplers.is_empty()) {
            Some(error) => Err(error.into()),
            None => Ok(source),
        }
    }

    /// Finds what is attached now. Returns what keeps single interfaces from being read.
    fn list(&mut self) -> Result<Vec<KernelError>, Failure> {
        let (context, ifaces) = (self.context, self.ifaces);
        let found = self.listing.pass(|| to_read(context, ifaces))?;
        let mut before = std::mem::take(&mut self.samplers);
        let mut errors = Vec::new();
        for one in found {
            let known = before.iter().position(|it| *it.pins() == one.pins);
            match known {
                Some(at) => self.samplers.push(before.swap_remove(at)),
                None => match Sampler::open(one) {
                    Ok(sampler) => self.samplers.push(sampler),
                    Err(error) => errors.push(error),
                },
            }
        }
        self.watcher
            .follow(self.samplers.iter().map(Sampler::attached));
        Ok(errors)
    }

    /// What was dropped since the last call. It has to be called at least twice a second.
    pub(super) fn look(&mut self) -> Seen {
        self.watcher.look()
    }

    /// Reads all interfaces now.
    ///
    /// # Errors
    /// When reading is not permitted any more. Everything else may pass.
    pub(super) fn read(&mut self) -> Result<Reading, Failure> {
        if self.listing.is_due() {
            self.troubles = match self.list() {
                Ok(errors) => errors.iter().map(ToString::to_string).collect(),
                Err(Failure::Kernel(error @ KernelError::NotPermitted { .. })) => {
                    return Err(error.into());
                }
                Err(failure) => {
                    self.samplers.clear();
                    let said = failure.findings().into_iter();
                    said.map(|found| found.message).collect()
                }
            };
        }
        let mut reading = Reading {
            troubles: self.troubles.clone(),
            ..Reading::default()
        };
        let mut leads: Vec<usize> = Vec::new();
        let mut lost = Vec::new();
        for at in 0..self.samplers.len() {
            let attachment = leads.iter().position(|lead| {
                self.samplers[*lead]
                    .pins()
                    .shares_with(self.samplers[at].pins())
            });
            let attachment = attachment.unwrap_or_else(|| {
                leads.push(at);
                leads.len() - 1
            });
            match self.samplers[at].sample() {
                Ok(sample) => reading
                    .interfaces
                    .push(InterfaceReading { sample, attachment }),
                Err(error @ KernelError::NotPermitted { .. }) => return Err(error.into()),
                Err(error) => {
                    reading.troubles.push(error.to_string());
                    lost.push(at);
                }
            }
        }
        for at in lost.into_iter().rev() {
            self.samplers.remove(at);
            // It may be attached in another way.
            self.listing = Pace::default();
        }
        Ok(reading)
    }
}

//! What a build tells a person while it works. The builder only reports; `xtask` decides how it looks.

use std::time::Duration;

/// Receives the events of a build. Stages may run side by side, so calls come from several threads.
pub trait Progress: Sync {
    /// A stage's result was in the store.
    fn hit(&self, stage: &str);
    /// A stage begins its work, for this reason.
    fn begin(&self, stage: &str, reason: &str);
    /// How far a stage is: done and all, in the unit that the stage counts.
    fn advance(&self, stage: &str, done: u64, all: u64);
    /// A stage has finished.
    fn end(&self, stage: &str, took: Duration);
    /// Something a person should read.
    fn note(&self, text: &str);
}

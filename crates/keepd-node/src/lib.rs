//! One member: threads, proposals, reads, alarms, quota, shutdown.

//! Leases: grants, attachments, expiry, renewal.

//! What needs trees, links, JSON or lists, found over all the spans of a partition at once.

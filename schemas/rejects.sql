-- rejects: input records that could not be used. Made by `ingest`, which never stops for one. Sorted by source_file, source_line.
create table rejects (
    source_file text not null,          -- path or URL as given to ingest
    source_line bigint not null,        -- line or message number in the file, from 1; 0 for the whole file
    byte_offset bigint not null,        -- where the record begins, in bytes of the decompressed file
    size_bytes bigint not null,         -- length of the record
    code text not null,                 -- reason as a word: json, utf8, truncated, too_large, unknown_format, missing_field, bad_value, unreadable, ...
    reason text not null,               -- reason as a sentence, with what to do where something can be done
    raw text                            -- the record itself, cut to 64 KiB, bytes that are not UTF-8 replaced
);

"""The service: HTTP routes over one finished run, and its page; `answers` says what there is to ask."""

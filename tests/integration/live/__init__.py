"""The whole service, once for all tests of this folder: worker, archiver and API as processes of their own."""

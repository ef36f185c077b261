// CMake needs a source file for precompiled headers.

// The home of precompiled headers: CMake needs a source file for them.

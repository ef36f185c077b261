// The home of the precompiled headers: CMake needs a source file for them.

# Everything moegpt needs: taken from the system if it is there, else downloaded at a pinned version. What is
# downloaded for the library becomes an imported target, so that it never enters moegpt's own export set.
include(FetchContent)

# Unpacks an archive without running its own build.
macro(moegpt_unpack name url sha256)
  message(STATUS "moegpt: ${name} is not on this system, fetching ${url}")
  FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${sha256} SOURCE_SUBDIR no-build-of-its-own)
  FetchContent_MakeAvailable(${name})
endmacro()

# Eigen 3.4.0's version file rejects a range that ends in 5, and Eigen 5 rejects a plain 3.4: ask for no
# version and look at what was found.
macro(moegpt_need_eigen)
  if(NOT TARGET Eigen3::Eigen)
    find_package(Eigen3 CONFIG QUIET)
  endif()
  if(NOT TARGET Eigen3::Eigen)
    moegpt_unpack(eigen https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
      8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
    add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
    target_include_directories(Eigen3::Eigen INTERFACE "${eigen_SOURCE_DIR}")
  elseif(DEFINED Eigen3_VERSION AND Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "moegpt needs Eigen 3.4 or later, found ${Eigen3_VERSION} in ${Eigen3_DIR}")
  endif()
endmacro()

macro(moegpt_need_json)
  if(NOT TARGET nlohmann_json::nlohmann_json)
    find_package(nlohmann_json CONFIG QUIET)
  endif()
  if(NOT TARGET nlohmann_json::nlohmann_json)
    moegpt_unpack(nlohmann_json https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
      d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
    add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED GLOBAL)
    target_include_directories(nlohmann_json::nlohmann_json INTERFACE "${nlohmann_json_SOURCE_DIR}/include")
  endif()
endmacro()

# Catch2 2 or 3, and its catch_discover_tests().
macro(moegpt_need_catch2)
  find_package(Catch2 CONFIG QUIET)
  if(NOT TARGET Catch2::Catch2)
    message(STATUS "moegpt: Catch2 is not on this system, fetching 3.7.1")
    FetchContent_Declare(Catch2 URL https://github.com/catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz
      URL_HASH SHA256=c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c)
    FetchContent_MakeAvailable(Catch2)
    list(APPEND CMAKE_MODULE_PATH "${catch2_SOURCE_DIR}/extras")
  endif()
  include(Catch)
endmacro()

# Command lines of the examples. 2.4.2, by its commit.
macro(moegpt_need_cli11)
  find_package(CLI11 CONFIG QUIET)
  if(NOT TARGET CLI11::CLI11)
    message(STATUS "moegpt: CLI11 is not on this system, fetching 2.4.2")
    set(CLI11_BUILD_TESTS OFF)
    set(CLI11_BUILD_EXAMPLES OFF)
    FetchContent_Declare(CLI11 GIT_REPOSITORY https://github.com/CLIUtils/CLI11
      GIT_TAG 6c7b07a878ad834957b98d0f9ce1dbe0cb204fc9)
    FetchContent_MakeAvailable(CLI11)
  endif()
endmacro()

macro(moegpt_need_benchmark)
  find_package(benchmark CONFIG QUIET)
  if(NOT TARGET benchmark::benchmark)
    message(STATUS "moegpt: Google Benchmark is not on this system, fetching 1.9.1")
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    FetchContent_Declare(benchmark URL https://github.com/google/benchmark/archive/refs/tags/v1.9.1.tar.gz
      URL_HASH SHA256=32131c08ee31eeff2c8968d7e874f3cb648034377dfc32a4c377fa8796d84981)
    FetchContent_MakeAvailable(benchmark)
  endif()
endmacro()
